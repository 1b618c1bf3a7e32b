//! Links the static program without tables for unwinding, and with what each start runs in one place.
//!
//! It ends at a panic, so nobody unwinds it, and it has no symbols to name a frame by: the tables would be the tenth part of
//! the file. Flags of the compiler do not leave them out, because the standard library is compiled with them.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=no_unwinding.ld");
    println!("cargo::rerun-if-changed=start_first.ld");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|it| it == value);
    if is("CARGO_CFG_TARGET_ENV", "musl") && is("PROFILE", "release") {
        let folder = std::env::var("CARGO_MANIFEST_DIR").expect("OK because cargo sets it");
        for script in ["no_unwinding.ld", "start_first.ld"] {
            println!("cargo::rustc-link-arg-bins=-Wl,-T,{folder}/{script}");
        }
    }
}
