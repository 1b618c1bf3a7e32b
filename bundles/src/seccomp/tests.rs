//! What Docker's profile comes to for a container, and what is said about a profile that is wrong.

use oci_spec::runtime::{LinuxSeccompAction, LinuxSeccompOperator};

use super::profile::Problem;
use super::*;

fn surroundings(capabilities: &[Capability], machine: Machine, kernel: (u32, u32)) -> Surroundings {
    Surroundings { capabilities: capabilities.iter().copied().collect(), machine, kernel }
}

/// The rules for a system call: what is done, whether it depends on arguments, with which error number.
fn rules(seccomp: &LinuxSeccomp, name: &str) -> Vec<(LinuxSeccompAction, bool, Option<u32>)> {
    let rules = seccomp.syscalls().as_deref().unwrap_or_default().iter();
    rules
        .filter(|rule| rule.names().iter().any(|other| other == name))
        .map(|rule| {
            (rule.action(), rule.args().as_ref().is_some_and(|list| !list.is_empty()), rule.errno_ret())
        })
        .collect()
}

const ALLOWED: (LinuxSeccompAction, bool, Option<u32>) = (LinuxSeccompAction::ScmpActAllow, false, None);
const ALLOWED_IF: (LinuxSeccompAction, bool, Option<u32>) = (LinuxSeccompAction::ScmpActAllow, true, None);
const NO_SUCH_CALL: (LinuxSeccompAction, bool, Option<u32>) =
    (LinuxSeccompAction::ScmpActErrno, false, Some(38));

#[test]
fn dockers_profile_for_a_plain_container() {
    let seccomp = docker_default(&surroundings(&[Capability::SysChroot], Machine::Amd64, (6, 1)));
    assert_eq!(seccomp.default_action(), LinuxSeccompAction::ScmpActErrno);
    assert_eq!(seccomp.default_errno_ret(), Some(1));
    let architectures = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
    assert_eq!(seccomp.architectures().as_deref(), Some(&architectures[..]));
    let table = [
        ("read", vec![ALLOWED]),
        ("mount", vec![]),
        ("bpf", vec![]),
        ("reboot", vec![]),
        // A bind(2) past the supervisor, and memory that stalls who reads it, are not to be had.
        ("io_uring_setup", vec![]),
        ("userfaultfd", vec![]),
        // By kernel version.
        ("ptrace", vec![ALLOWED]),
        // By capability.
        ("chroot", vec![ALLOWED]),
        // By the absence of one: threads yes, namespaces no; glibc falls back from clone3 to clone.
        ("clone", vec![ALLOWED_IF]),
        ("clone3", vec![NO_SUCH_CALL]),
        // By architecture.
        ("arch_prctl", vec![ALLOWED]),
        ("riscv_flush_icache", vec![]),
        ("personality", vec![ALLOWED_IF; 5]),
        ("socket", vec![ALLOWED_IF]),
    ];
    for (name, expected) in table {
        assert_eq!(rules(&seccomp, name), expected, "{name}");
    }
}

#[test]
fn a_capability_opens_what_it_is_about() {
    let seccomp = docker_default(&surroundings(&[Capability::SysAdmin], Machine::Amd64, (6, 1)));
    assert_eq!(rules(&seccomp, "mount"), vec![ALLOWED]);
    assert_eq!(rules(&seccomp, "clone"), vec![ALLOWED]);
    assert_eq!(rules(&seccomp, "clone3"), vec![ALLOWED]);
    assert_eq!(rules(&seccomp, "chroot"), vec![]);
}

#[test]
fn an_old_kernel_gets_no_ptrace() {
    for (kernel, expected) in [((4, 7), vec![]), ((4, 8), vec![ALLOWED]), ((5, 0), vec![ALLOWED])] {
        let seccomp = docker_default(&surroundings(&[], Machine::Amd64, kernel));
        assert_eq!(rules(&seccomp, "ptrace"), expected, "{kernel:?}");
    }
}

#[test]
fn each_machine_has_its_own() {
    let arm = docker_default(&surroundings(&[], Machine::Arm64, (6, 1)));
    assert_eq!(arm.architectures().as_deref(), Some(&[Arch::ScmpArchAarch64, Arch::ScmpArchArm][..]));
    assert_eq!(rules(&arm, "arch_prctl"), vec![]);
    assert_eq!(rules(&arm, "sync_file_range2"), vec![ALLOWED]);
    // On s390 the flags are clone's second argument.
    let mainframe = docker_default(&surroundings(&[], Machine::S390x, (6, 1)));
    let rule = mainframe.syscalls().as_ref().unwrap().iter().find(|rule| rule.names() == &["clone"]).unwrap();
    let argument = &rule.args().as_ref().unwrap()[0];
    assert_eq!((argument.index(), argument.op()), (1, LinuxSeccompOperator::ScmpCmpMaskedEq));
    assert_eq!(
        rules(&docker_default(&surroundings(&[], Machine::Riscv64, (6, 1))), "riscv_flush_icache"),
        [ALLOWED]
    );
}

#[test]
fn every_rule_of_docker_can_apply() {
    // Nothing in the profile is beyond what this code understands: each rule applies somewhere.
    let profile = Profile::parse(DOCKER).unwrap();
    let every: Vec<_> = profile.rules.iter().flat_map(|rule| rule.includes.capabilities.clone()).collect();
    for rule in &profile.rules {
        let machines = [Machine::Amd64, Machine::Arm64, Machine::Riscv64, Machine::Ppc64le, Machine::S390x];
        let applies = machines.iter().any(|&machine| {
            [&every[..], &[]].iter().any(|capabilities| {
                let here = surroundings(capabilities, machine, (6, 1));
                rule.includes.meets_all(&here) && !rule.excludes.meets_any(&here)
            })
        });
        assert!(applies, "{:?}", rule.call.names());
    }
}

#[test]
fn kernel_releases_are_read() {
    for (release, expected) in [
        ("6.1.0-18-amd64", (6, 1)),
        ("6.18.44-fc-v669", (6, 18)),
        ("5.10", (5, 10)),
        ("4", (4, 0)),
        ("", (0, 0)),
        ("next-2025", (0, 0)),
        ("99999999999.1", (0, 1)),
    ] {
        assert_eq!(kernel_version(release), expected, "{release}");
    }
}

#[test]
fn a_bundles_form_is_taken_as_it_is() {
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO",
        "errnoRet": 13, "args": [{"index": 5, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}]},
        {"name": "reboot", "action": "SCMP_ACT_KILL_PROCESS", "args": null, "includes": {}, "comment": "old form"}]}"#;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let here = surroundings(&[], Machine::Amd64, (6, 1));
    let seccomp = serde_json::to_value(read_profile(file.path(), &here).unwrap()).unwrap();
    let expected = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO",
        "errnoRet": 13, "args": [{"index": 5, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}]},
        {"names": ["reboot"], "action": "SCMP_ACT_KILL_PROCESS"}]});
    assert_eq!(seccomp, expected);
}

#[test]
fn what_is_wrong_is_named_by_its_key() {
    let rule = |rest: &str| {
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"name": "a", "action": "SCMP_ACT_LOG"}}, {rest}]}}"#
        )
    };
    let table = [
        ("".to_owned(), "", "it is not JSON"),
        ("[]".to_owned(), "", "not an object"),
        ("{}".to_owned(), "defaultAction", "missing"),
        (r#"{"defaultAction": "ALLOW"}"#.to_owned(), "defaultAction", "unknown variant `ALLOW`"),
        (r#"{"defaultAction": "SCMP_ACT_LOG", "sycalls": []}"#.to_owned(), "sycalls", "unknown"),
        (r#"{"defaultAction": "SCMP_ACT_LOG", "syscalls": {}}"#.to_owned(), "syscalls", "not a list"),
        (
            r#"{"defaultAction": "SCMP_ACT_LOG", "architectures": ["SCMP_ARCH_ARM"],
                "archMap": [{"architecture": "SCMP_ARCH_ARM"}]}"#
                .to_owned(),
            "archMap",
            "only one",
        ),
        (rule(r#"{"names": ["b"]}"#), "syscalls[1].action", "missing"),
        (rule(r#"{"action": "SCMP_ACT_LOG"}"#), "syscalls[1].names", "missing or empty"),
        (rule(r#"{"name": "b", "names": ["c"], "action": "SCMP_ACT_LOG"}"#), "syscalls[1].name", "only one"),
        (
            rule(
                r#"{"name": "b", "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]}"#,
            ),
            "syscalls[1].args[0].value",
            "invalid value",
        ),
        (
            rule(
                r#"{"name": "b", "action": "SCMP_ACT_LOG", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}"#,
            ),
            "syscalls[1].args[0].index",
            "0 to 5",
        ),
        (
            rule(r#"{"name": "b", "action": "SCMP_ACT_LOG", "includes": {"caps": ["CAP_ROOT"]}}"#),
            "syscalls[1].includes.caps",
            "CAP_ROOT",
        ),
        (
            rule(r#"{"name": "b", "action": "SCMP_ACT_LOG", "excludes": {"minKernel": "5"}}"#),
            "syscalls[1].excludes.minKernel",
            "not a kernel's version",
        ),
    ];
    for (text, key, reason) in table {
        let problem: Problem = Profile::parse(&text).unwrap_err();
        assert_eq!(problem.key, key, "{text}");
        assert!(problem.reason.contains(reason), "{text}: {}", problem.reason);
    }
}
