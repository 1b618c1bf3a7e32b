//! Holds compiled programs against a second, naive reading of the profile, and against the kernel.

use std::process::Command;

use nix::libc;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};
use proptest::prelude::*;

use super::abi::{Abi, X32_BIT};
use super::program::Instruction;
use super::{Filter, program, rules};
use crate::error::Error;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_THREAD;
const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
const EPERM: u32 = ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = ERRNO | libc::ENOSYS as u32;

/// `struct seccomp_data`, without the instruction pointer.
#[derive(Debug, Clone, Copy)]
struct Call {
    audit: u32,
    number: u32,
    arguments: [u64; 6],
}

/// Runs a program as the kernel would, with the kernel's own limits (`seccomp_check_filter`).
fn run(program: &[Instruction], call: &Call) -> u32 {
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let it = program[at];
        at += 1;
        let choose = |holds: bool| usize::from(if holds { it.jump_true } else { it.jump_false });
        match u32::from(it.code) {
            code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                assert!(it.value.is_multiple_of(4) && it.value < 64, "a load outside of seccomp_data");
                accumulator = match it.value {
                    0 => call.number,
                    4 => call.audit,
                    8 | 12 => 0,
                    offset => {
                        let index = (offset as usize - 16) / 8;
                        let shift = if offset % 8 == 0 { 0 } else { 32 };
                        (call.arguments[index] >> shift) as u32
                    }
                };
            }
            code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => accumulator &= it.value,
            code if code == libc::BPF_JMP | libc::BPF_JA => at += it.value as usize,
            code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                at += choose(accumulator == it.value)
            }
            code if code == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => {
                at += choose(accumulator > it.value)
            }
            code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => {
                at += choose(accumulator >= it.value)
            }
            code if code == libc::BPF_RET | libc::BPF_K => return it.value,
            code => panic!("an instruction seccomp does not have: {code:#x}"),
        }
    }
}

/// A second reading of a profile: straight from the JSON's words, one call at a time.
fn naive(profile: &LinuxSeccomp, call: &Call) -> u32 {
    let x32 = call.number & X32_BIT != 0;
    let abi = match (call.audit, x32) {
        (0xc000_003e, false) => Abi::X86_64,
        (0xc000_003e, true) => Abi::X32,
        (0x4000_0003, _) => Abi::X86,
        (0xc000_00b7, _) => Abi::Aarch64,
        (0x4000_0028, _) => Abi::Arm,
        _ => return KILL,
    };
    let listed = profile.architectures().iter().flatten().any(|it| Abi::of(*it) == Some(abi));
    if !listed && abi != super::abi::NATIVE {
        return KILL;
    }
    let value = |action: LinuxSeccompAction, number: Option<u32>| match action {
        LinuxSeccompAction::ScmpActErrno => ERRNO | number.unwrap_or(1),
        LinuxSeccompAction::ScmpActTrace => libc::SECCOMP_RET_TRACE | number.unwrap_or(1),
        LinuxSeccompAction::ScmpActKill => KILL,
        other => other.as_u32(None),
    };
    let default = value(profile.default_action(), profile.default_errno_ret());
    let calls = profile.syscalls().as_deref().unwrap_or_default();
    let named = |it: &&LinuxSyscall| it.names().iter().any(|name| abi.number(name) == Some(call.number));
    let redundant = |it: &&LinuxSyscall| value(it.action(), it.errno_ret()) == default;

    // Numbers from 0xf0000 on are ARM's own and say nothing about how new a profile is.
    let known = calls.iter().flat_map(|it| it.names()).filter_map(|name| abi.number(name));
    let highest = known.filter(|number| abi != Abi::Arm || *number < 0xf_0000).max();
    let lets_through = matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace
    );
    let newer = !lets_through && highest.is_some_and(|highest| call.number > highest);

    let relevant: Vec<&LinuxSyscall> = calls.iter().filter(named).filter(|it| !redundant(it)).collect();
    let no_conditions = |it: &LinuxSyscall| it.args().as_ref().is_none_or(Vec::is_empty);
    if let Some(always) = relevant.iter().find(|it| no_conditions(it)) {
        return value(always.action(), always.errno_ret());
    }
    for rule in relevant {
        let arguments = rule.args().as_deref().unwrap_or_default();
        let holds = |it: &LinuxSeccompArg| {
            let cut = |value: u64| if abi.is_32_bit() { value & 0xffff_ffff } else { value };
            let (actual, wanted) = (cut(call.arguments[it.index()]), cut(it.value()));
            match it.op() {
                LinuxSeccompOperator::ScmpCmpEq => actual == wanted,
                LinuxSeccompOperator::ScmpCmpNe => actual != wanted,
                LinuxSeccompOperator::ScmpCmpLt => actual < wanted,
                LinuxSeccompOperator::ScmpCmpLe => actual <= wanted,
                LinuxSeccompOperator::ScmpCmpGt => actual > wanted,
                LinuxSeccompOperator::ScmpCmpGe => actual >= wanted,
                LinuxSeccompOperator::ScmpCmpMaskedEq => {
                    actual & wanted == cut(it.value_two().unwrap_or(0)) & wanted
                }
            }
        };
        let repeated = (0..6).any(|index| arguments.iter().filter(|it| it.index() == index).count() > 1);
        let decides = if repeated { arguments.iter().any(holds) } else { arguments.iter().all(holds) };
        if decides {
            return value(rule.action(), rule.errno_ret());
        }
    }
    if newer { ENOSYS } else { default }
}

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).expect("a profile")
}

fn compiled(profile: &LinuxSeccomp) -> Vec<Instruction> {
    Filter::compile(profile).expect("a profile that can be enforced").program
}

fn verdict(profile: &LinuxSeccomp, abi: Abi, name: &str, arguments: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let number = abi.number(name).expect("a call of this convention");
    run(&compiled(profile), &Call { audit: abi.audit(), number, arguments: all })
}

/// In the manner of Docker's.
fn usual() -> LinuxSeccomp {
    profile(
        r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["read", "write", "openat", "ioctl", "execve", "exit_group", "socketcall", "statx", "a_new_one"],
             "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 4294967295, "op": "SCMP_CMP_EQ"}]}
        ]}"#,
    )
}

#[test]
fn a_usual_profile_means_what_it_says() {
    let usual = usual();
    for (abi, name, arguments, expected) in [
        (Abi::X86_64, "read", vec![], ALLOW),
        (Abi::X86_64, "mount", vec![], EPERM),
        (Abi::X86_64, "clone", vec![0x11], ALLOW),
        (Abi::X86_64, "clone", vec![0x1000_0000], EPERM),
        (Abi::X86_64, "clone3", vec![], ENOSYS),
        (Abi::X86_64, "socket", vec![2], ALLOW),
        (Abi::X86_64, "socket", vec![40], EPERM),
        (Abi::X86_64, "socket", vec![40 | 1 << 32], ALLOW),
        (Abi::X86_64, "personality", vec![8], ALLOW),
        (Abi::X86_64, "personality", vec![0xffff_ffff], ALLOW),
        (Abi::X86_64, "personality", vec![u64::MAX], EPERM),
        (Abi::X86_64, "personality", vec![0], EPERM),
        (Abi::X32, "ioctl", vec![], ALLOW),
        (Abi::X32, "mount", vec![], EPERM),
        (Abi::X86, "socketcall", vec![1], ALLOW),
        (Abi::X86, "socket", vec![40 | 1 << 32], EPERM),
    ] {
        assert_eq!(verdict(&usual, abi, name, &arguments), expected, "{abi:?} {name} {arguments:x?}");
    }
}

#[test]
fn what_is_newer_than_the_profile_is_not_implemented() {
    let program = compiled(&usual());
    let at = |number| run(&program, &Call { audit: Abi::X86_64.audit(), number, arguments: [0; 6] });
    let last = Abi::X86_64.number("clone3").expect("a call");
    assert_eq!(at(last - 1), EPERM);
    assert_eq!([at(last + 1), at(600), at(0x3fff_ffff), at(u32::MAX)], [ENOSYS; 4]);
    assert_eq!(at(X32_BIT + 1000), ENOSYS);

    let permissive = profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    let program = compiled(&permissive);
    assert_eq!(
        run(&program, &Call { audit: super::abi::NATIVE.audit(), number: 600, arguments: [0; 6] }),
        ALLOW
    );
}

#[test]
fn a_convention_that_is_not_listed_ends_the_thread() {
    let native = profile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    assert_eq!(verdict(&native, Abi::X86_64, "read", &[]), ALLOW);
    assert_eq!(verdict(&native, Abi::X86, "read", &[]), KILL);
    assert_eq!(verdict(&native, Abi::Arm, "read", &[]), KILL);
    assert_eq!(verdict(&native, Abi::X32, "read", &[]), KILL);
}

#[test]
fn old_and_new_door_to_a_socket_are_judged_alike() {
    let deny = profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
            "syscalls": [{"names": ["socket", "shmget"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    assert_eq!(verdict(&deny, Abi::X86, "socket", &[2]), EPERM);
    assert_eq!(verdict(&deny, Abi::X86, "socketcall", &[1]), EPERM);
    assert_eq!(verdict(&deny, Abi::X86, "socketcall", &[2]), ALLOW);
    assert_eq!(verdict(&deny, Abi::X86, "ipc", &[23]), EPERM);
}

#[test]
fn two_conditions_on_one_argument_are_two_rules() {
    let either = profile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    let native = super::abi::NATIVE;
    assert_eq!(verdict(&either, native, "personality", &[0]), ALLOW);
    assert_eq!(verdict(&either, native, "personality", &[8]), ALLOW);
    assert_eq!(verdict(&either, native, "personality", &[9]), EPERM);
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    for (json, word) in [
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "NOTIFY"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["bind"], "action": "SCMP_ACT_NOTIFY"}]}"#,
            "NOTIFY",
        ),
        (r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}"#, "5000"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["bind"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
            "argument 6",
        ),
    ] {
        let Err(Error::Seccomp { reason }) = Filter::compile(&profile(json)) else {
            panic!("{json} was compiled")
        };
        assert!(reason.contains(word), "{reason}");
    }
}

#[test]
fn a_program_beyond_the_kernels_limit_is_refused() {
    let one = r#"{"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": VALUE, "op": "SCMP_CMP_EQ"}]}"#;
    let many: Vec<String> = (0..1000).map(|value| one.replace("VALUE", &value.to_string())).collect();
    let json = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#, many.join(","));
    let Err(Error::Seccomp { reason }) = Filter::compile(&profile(&json)) else { panic!("it was compiled") };
    assert!(reason.contains("4096"), "{reason}");
}

/// Names that exist on some conventions only, are next to each other, far apart, x32's own, or unknown.
const NAMES: [&str; 20] = [
    "read",
    "write",
    "open",
    "close",
    "stat",
    "ioctl",
    "readv",
    "clone",
    "personality",
    "prctl",
    "arch_prctl",
    "fcntl64",
    "waitpid",
    "openat",
    "execveat",
    "clone3",
    "cachestat",
    "uselib",
    "set_tls",
    "no_such_call",
];

fn argument() -> impl Strategy<Value = LinuxSeccompArg> {
    let operator = prop::sample::select(vec![
        LinuxSeccompOperator::ScmpCmpEq,
        LinuxSeccompOperator::ScmpCmpNe,
        LinuxSeccompOperator::ScmpCmpLt,
        LinuxSeccompOperator::ScmpCmpLe,
        LinuxSeccompOperator::ScmpCmpGt,
        LinuxSeccompOperator::ScmpCmpGe,
        LinuxSeccompOperator::ScmpCmpMaskedEq,
    ]);
    (0usize..3, operator, word(), word()).prop_map(|(index, operator, value, second)| {
        let argument =
            LinuxSeccompArgBuilder::default().index(index).op(operator).value(value).value_two(second);
        argument.build().expect("an argument")
    })
}

/// Numbers that agree in a half often enough.
fn word() -> impl Strategy<Value = u64> {
    let half = || prop::sample::select(vec![0u64, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]);
    (half(), half()).prop_map(|(high, low)| high << 32 | low)
}

fn any_profile() -> impl Strategy<Value = LinuxSeccomp> {
    let action = || {
        prop::sample::select(vec![
            (LinuxSeccompAction::ScmpActAllow, None),
            (LinuxSeccompAction::ScmpActErrno, None),
            (LinuxSeccompAction::ScmpActErrno, Some(38)),
            (LinuxSeccompAction::ScmpActKillProcess, None),
            (LinuxSeccompAction::ScmpActKill, None),
            (LinuxSeccompAction::ScmpActTrap, None),
            (LinuxSeccompAction::ScmpActTrace, Some(7)),
            (LinuxSeccompAction::ScmpActLog, None),
        ])
    };
    let rule = (
        prop::collection::vec(prop::sample::select(NAMES.to_vec()), 1..5),
        action(),
        prop::collection::vec(argument(), 0..4),
    )
        .prop_map(|(names, (action, number), arguments)| {
            let mut rule = LinuxSyscall::default();
            rule.set_names(names.iter().map(|name| (*name).to_string()).collect());
            rule.set_action(action).set_errno_ret(number).set_args(Some(arguments));
            rule
        });
    let architectures = prop::sample::subsequence(
        vec![
            Arch::ScmpArchX86_64,
            Arch::ScmpArchX86,
            Arch::ScmpArchX32,
            Arch::ScmpArchAarch64,
            Arch::ScmpArchMips,
        ],
        0..=5,
    );
    (action(), architectures, prop::collection::vec(rule, 0..12)).prop_map(
        |(default, architectures, rules)| {
            let mut profile = LinuxSeccomp::default();
            profile.set_default_action(default.0).set_default_errno_ret(default.1);
            profile.set_architectures(Some(architectures)).set_syscalls(Some(rules));
            profile
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_program_does_what_the_profile_says(
        profile in any_profile(),
        arguments in prop::collection::vec((word(), word(), word()), 6),
    ) {
        let program = compiled(&profile);
        for abi in [Abi::X86_64, Abi::X32, Abi::X86, Abi::Aarch64, Abi::Arm] {
            let named = NAMES.iter().filter_map(|name| abi.number(name));
            let numbers = named.flat_map(|number| [number.saturating_sub(1), number, number + 1]).chain([0, 470, 4000]);
            for number in numbers {
                for (first, second, third) in &arguments {
                    let arguments = [*first, *second, *third, 0, 0, 0];
                    let call = Call { audit: abi.audit(), number, arguments };
                    prop_assert_eq!(run(&program, &call), naive(&profile, &call), "{:?} {:x?}", abi, call);
                }
            }
        }
    }
}

#[test]
fn numbers_are_those_of_the_kernels_headers() {
    for (abi, name, number) in [
        (Abi::X86_64, "openat2", Some(437)),
        (Abi::X32, "openat2", Some(X32_BIT | 437)),
        (Abi::X32, "execve", Some(X32_BIT | 520)),
        (Abi::X32, "uselib", None),
        (Abi::X86, "execve", Some(11)),
        (Abi::X86, "break", Some(17)),
        (Abi::Aarch64, "execve", Some(221)),
        (Abi::Aarch64, "open", None),
        (Abi::Arm, "set_tls", Some(0x000f_0005)),
        (Abi::Arm, "arm_fadvise64_64", Some(270)),
    ] {
        assert_eq!(abi.number(name), number, "{abi:?} {name}");
    }
}

#[test]
fn far_ranges_are_reached_although_jumps_are_short() {
    // Every second number has a verdict of its own: hundreds of leaves, so that the tree outgrows a short jump.
    let names: Vec<String> = (0..420usize)
        .step_by(2)
        .filter_map(syscalls::x86_64::Sysno::new)
        .map(|it| format!("\"{}\"", it.name()))
        .collect();
    let json = format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
             "syscalls": [{{"names": [{}], "action": "SCMP_ACT_ALLOW"}}]}}"#,
        names.join(",")
    );
    let profile = profile(&json);
    let cases = rules::cases(&profile).expect("cases");
    let program = program::assemble(&cases).expect("a program");
    assert!(program.len() > 600, "{}", program.len());
    for number in 0..430 {
        let call = Call { audit: Abi::X86_64.audit(), number, arguments: [0; 6] };
        assert_eq!(run(&program, &call), naive(&profile, &call), "number {number}");
    }
}

/// Set in the copy of this test program that puts the filter on itself.
const CONFINED: &str = "OPSRUN_TEST_CONFINED";

#[test]
fn the_kernel_takes_and_obeys_it() {
    if std::env::var_os(CONFINED).is_some() {
        return confined();
    }
    // A filter stays on for good, so it goes on a process of its own: this same test, run again.
    let output = Command::new(std::env::current_exe().expect("the test program"))
        .args(["--exact", "seccomp::tests::the_kernel_takes_and_obeys_it", "--nocapture", "--test-threads=1"])
        .env(CONFINED, "1")
        .output()
        .expect("the test program runs again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("the filter was obeyed"), "{text}");
}

fn confined() {
    let deny = profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": [
            {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
             "args": [{"index": 1, "value": 4294967296, "op": "SCMP_CMP_LT"}]}]}"#,
    );
    nix::sys::prctl::set_no_new_privs().expect("no_new_privs");
    Filter::compile(&deny).expect("a filter").load().expect("the kernel takes it");
    assert_eq!(nix::unistd::sethostname("opsrun-test"), Err(nix::errno::Errno::EPERM));
    let priority = rustix::process::getpriority_process(None);
    assert_eq!(priority.map_err(|error| error.raw_os_error()), Err(libc::ENOSYS));
    println!("the filter was obeyed");
}
