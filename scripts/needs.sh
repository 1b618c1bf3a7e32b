# Sourced by the other scripts: what they need of the machine they run on.
# shellcheck shell=sh

say() { echo "==> $*"; }
die() { echo "error: $*" >&2; exit 1; }

# need_root: sudo, or root itself.
need_root() { [ "$(id -u)" = 0 ] || die "this needs root: sudo $0"; }

# need_packages PACKAGE...: installs those that are missing from Debian.
need_packages() {
    missing=
    for package; do
        status=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null) || status=absent
        [ "$status" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing Debian packages:$missing"
    apt-get -qq update
    # shellcheck disable=SC2086 # a list
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends $missing < /dev/null > /dev/null
}

# need_rust: finds cargo, and sets $target, the one to build for, and $built, the folder of what is built.
# sudo changes PATH and HOME: the toolchain is then that of the user who typed it, who should own what it writes too.
need_rust() {
    rust_home=$HOME builder=
    if [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
        user_home=$(getent passwd "$SUDO_USER" | cut -d : -f 6)
        if [ -x "$user_home/.cargo/bin/cargo" ]; then rust_home=$user_home builder=$SUDO_USER; fi
    fi
    if [ -d "$rust_home/.cargo/bin" ]; then PATH=$rust_home/.cargo/bin:$PATH; fi
    command -v cargo > /dev/null || die "there is no cargo; get it from https://rustup.rs"

    target=$(uname -m)-unknown-linux-musl
    if command -v rustup > /dev/null; then
        as_builder rustup -q target add "$target"
    elif [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
        # Debian's Rust has no musl; the C library of the host can be linked statically as well.
        target=$(uname -m)-unknown-linux-gnu
        export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static"
    fi
    # shellcheck disable=SC2034 # for the script that sources this
    built=${CARGO_TARGET_DIR:-$PWD/target}/$target
}

as_builder() {
    if [ -n "$builder" ]; then runuser -u "$builder" -- env HOME="$rust_home" PATH="$PATH" "$@"; else "$@"; fi
}

# need_tool CRATE VERSION: builds a program from crates.io, once, and sets $tool to its path. After need_rust.
need_tool() {
    tools=${OPSRUN_CACHE:-/var/cache/opsrun}/tools
    tool=$tools/bin/$1-$2
    [ ! -x "$tool" ] || return 0
    say "building $1 $2"
    mkdir -p "$tools"
    [ -z "$builder" ] || chown "$builder" "$tools"
    # It runs for a second: building it optimized would only take longer.
    as_builder env RUSTFLAGS= CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install --quiet --locked --root "$tools" "$1@$2"
    mv "$tools/bin/$1" "$tool"
}
