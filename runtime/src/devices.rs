//! Enforces which devices the processes of a cgroup may open or make, by a program in the kernel.
//! It knows nothing of containers: a cgroup is a folder that is open.
//!
//! cgroup v2 has no file for this; a `BPF_PROG_TYPE_CGROUP_DEVICE` program is asked at each open and mknod
//! (Documentation/admin-guide/cgroup-v2.rst, "Device controller"). What it is told is `struct bpf_cgroup_dev_ctx`:
//! the kind of device and the bits of access that are wanted, major, minor.
//!
//! The program is loaded without raising `RLIMIT_MEMLOCK`, for which a confined root may lack `CAP_SYS_RESOURCE`: from
//! Linux 5.11 on the memory counts in the memory cgroup, and before that it fits into the usual limit.

use std::io;
use std::os::fd::BorrowedFd;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::os;

/// Bits of access: `BPF_DEVCG_ACC_MKNOD`, `_READ`, `_WRITE`.
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MAKE | READ | WRITE;

/// Kinds of device: `BPF_DEVCG_DEV_BLOCK`, `_CHAR`.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// What every container may use, whatever its rules say: the devices that the OCI runtime specification makes a
/// runtime supply (config-linux, "Default Devices"), terminals, and making nodes, which alone opens nothing.
/// runc adds the same behind a bundle's rules; a bundle whose only rule is "deny all" counts on it.
const ALWAYS: [Rule; 10] = [
    Rule::allow(CHARACTER, None, None, MAKE),
    Rule::allow(BLOCK, None, None, MAKE),
    Rule::allow(CHARACTER, Some(1), Some(3), ALL), // null
    Rule::allow(CHARACTER, Some(1), Some(5), ALL), // zero
    Rule::allow(CHARACTER, Some(1), Some(7), ALL), // full
    Rule::allow(CHARACTER, Some(1), Some(8), ALL), // random
    Rule::allow(CHARACTER, Some(1), Some(9), ALL), // urandom
    Rule::allow(CHARACTER, Some(5), Some(0), ALL), // tty
    Rule::allow(CHARACTER, Some(5), Some(2), ALL), // ptmx
    Rule::allow(CHARACTER, Some(136), None, ALL),  // pts/N
];

/// A rule as the kernel's numbers. `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    const fn allow(kind: i32, major: Option<i32>, minor: Option<i32>, access: i32) -> Self {
        Self { allow: true, kind: Some(kind), major, minor, access }
    }

    /// Whether it judges all that an earlier one would, which then need not be asked: the kernel checks every instruction.
    fn covers(&self, earlier: &Self) -> bool {
        let any_or_same = |mine: Option<i32>, other: Option<i32>| mine.is_none() || mine == other;
        any_or_same(self.kind, earlier.kind)
            && any_or_same(self.major, earlier.major)
            && any_or_same(self.minor, earlier.minor)
            && earlier.access & !self.access == 0
    }
}

/// Attaches the rules of a bundle (`linux.resources.devices`) to a cgroup v2 folder.
///
/// Each kind of access to a device is judged by the last rule that speaks of it; what no rule speaks of is denied. A
/// parent's program keeps its say: what one of the two denies is denied.
///
/// # Errors
/// `InvalidInput` for a rule that cannot be enforced, naming it; otherwise what bpf(2) says: `EPERM` without
/// `CAP_SYS_ADMIN`, `EBADF` for a folder of cgroup v1.
pub fn attach(rules: &[LinuxDeviceCgroup], cgroup: BorrowedFd<'_>) -> io::Result<()> {
    let mut all = rules.iter().map(rule).collect::<io::Result<Vec<Rule>>>()?;
    all.extend(ALWAYS);
    let program = os::bpf_load_cgroup_device(&program(&all))?;
    os::bpf_attach_cgroup_device(&program, cgroup)
}

/// Whether this kernel takes such a program from this process.
pub fn are_enforceable() -> io::Result<()> {
    os::bpf_load_cgroup_device(&program(&ALWAYS)).map(drop)
}

fn rule(rule: &LinuxDeviceCgroup) -> io::Result<Rule> {
    let refused = |what: &str| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("the device rule \"{rule}\" {what}"))
    };
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(BLOCK),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(CHARACTER),
        LinuxDeviceType::P => return Err(refused("is about a pipe, which is no device")),
    };
    let number = |number: Option<i64>| match number {
        // -1 is how older tools write "any".
        None | Some(-1) => Ok(None),
        Some(number) => i32::try_from(number)
            .ok()
            .filter(|it| *it >= 0)
            .map(Some)
            .ok_or_else(|| refused("has no such number")),
    };
    let access = match rule.access().as_deref() {
        None | Some("") => ALL,
        Some(letters) => letters.chars().try_fold(0, |bits, letter| match letter {
            'r' => Ok(bits | READ),
            'w' => Ok(bits | WRITE),
            'm' => Ok(bits | MAKE),
            _ => Err(refused("has an access other than r, w and m")),
        })?,
    };
    Ok(Rule { allow: rule.allow(), kind, major: number(rule.major())?, minor: number(rule.minor())?, access })
}

// Instructions (Documentation/bpf/standardization/instruction-set.rst), 64 bits each.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP: u8 = 0x05;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const JUMP_IF_ANY_BIT: u8 = 0x45;
const EXIT: u8 = 0x95;

// Registers. The kernel hands the question in R1 and takes the answer from R0.
const ANSWER: u8 = 0;
const QUESTION: u8 = 1;
const KIND: u8 = 2;
/// The bits of access that no rule has judged yet.
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> u64 {
    let registers = u64::from(target | source << 4);
    u64::from(code) | registers << 8 | u64::from(offset as u16) << 16 | u64::from(value as u32) << 32
}

/// The rules from last to first: an allowing one strikes its bits off what is wanted, and once nothing is left the
/// answer is yes; a denying one that meets a bit which is still wanted says no; what is left in the end is denied.
fn program(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        instruction(LOAD_WORD, KIND, QUESTION, 0, 0),
        instruction(MOVE_REGISTER, WANTED, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, WANTED, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, QUESTION, 4, 0),
        instruction(LOAD_WORD, MINOR, QUESTION, 8, 0),
    ];
    let heard = |(index, rule): &(usize, &Rule)| !rules[index + 1..].iter().any(|later| later.covers(rule));
    for (_, rule) in rules.iter().enumerate().filter(heard).rev() {
        let verdict = verdict(rule);
        let parts = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)];
        let conditions: Vec<(u8, i32)> =
            parts.iter().filter_map(|(register, value)| value.map(|value| (*register, value))).collect();
        for (index, (register, value)) in conditions.iter().enumerate() {
            let behind = conditions.len() - index - 1 + verdict.len();
            let behind = i16::try_from(behind).expect("OK because a rule is at most 7 instructions");
            program.push(instruction(JUMP_IF_NOT_EQUAL, *register, 0, behind, *value));
        }
        program.extend(verdict);
    }
    program.extend(answer(0));
    program
}

fn verdict(rule: &Rule) -> Vec<u64> {
    let mut verdict = if rule.allow {
        vec![
            instruction(AND, WANTED, 0, 0, ALL & !rule.access),
            instruction(JUMP_IF_NOT_EQUAL, WANTED, 0, 2, 0),
        ]
    } else {
        vec![instruction(JUMP_IF_ANY_BIT, WANTED, 0, 1, rule.access), instruction(JUMP, 0, 0, 2, 0)]
    };
    verdict.extend(answer(i32::from(rule.allow)));
    verdict
}

fn answer(answer: i32) -> [u64; 2] {
    [instruction(MOVE, ANSWER, 0, 0, answer), instruction(EXIT, 0, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use proptest::prelude::*;

    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[u64], kind: i32, wanted: i32, major: i32, minor: i32) -> bool {
        let question = [kind | wanted << 16, major, minor];
        let mut registers = [0i32; 6];
        let mut at = 0usize;
        loop {
            let it = program[at];
            at += 1;
            let (target, source) = ((it >> 8 & 0xf) as usize, (it >> 12 & 0xf) as usize);
            let (offset, value) = ((it >> 16) as u16 as i16, (it >> 32) as u32 as i32);
            let jump = usize::try_from(offset).expect("a jump forward");
            match it as u8 {
                LOAD_WORD => registers[target] = question[jump / 4],
                MOVE => registers[target] = value,
                MOVE_REGISTER => registers[target] = registers[source],
                AND => registers[target] &= value,
                SHIFT_RIGHT => registers[target] = ((registers[target] as u32) >> value) as i32,
                JUMP => at += jump,
                JUMP_IF_NOT_EQUAL if registers[target] != value => at += jump,
                JUMP_IF_ANY_BIT if registers[target] & value != 0 => at += jump,
                JUMP_IF_NOT_EQUAL | JUMP_IF_ANY_BIT => {}
                EXIT => return registers[0] != 0,
                code => panic!("an unknown instruction: {code:#x}"),
            }
        }
    }

    /// Each bit by itself: the last rule that speaks of it decides.
    fn naive(rules: &[Rule], kind: i32, wanted: i32, major: i32, minor: i32) -> bool {
        let same = |rule: Option<i32>, value: i32| rule.is_none_or(|rule| rule == value);
        [MAKE, READ, WRITE].into_iter().filter(|bit| wanted & bit != 0).all(|bit| {
            let speaks = |rule: &&Rule| {
                same(rule.kind, kind)
                    && same(rule.major, major)
                    && same(rule.minor, minor)
                    && rule.access & bit != 0
            };
            rules.iter().rev().find(speaks).is_some_and(|rule| rule.allow)
        })
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let number = || prop::sample::select(vec![None, Some(0), Some(1), Some(2)]);
        let kind = prop::sample::select(vec![None, Some(BLOCK), Some(CHARACTER)]);
        (any::<bool>(), kind, number(), number(), 1..=ALL)
            .prop_map(|(allow, kind, major, minor, access)| Rule { allow, kind, major, minor, access })
    }

    proptest! {
        #[test]
        fn a_program_does_what_its_rules_say(rules in prop::collection::vec(any_rule(), 0..10)) {
            let program = program(&rules);
            for kind in [BLOCK, CHARACTER] {
                for wanted in 1..=ALL {
                    for (major, minor) in (0..4).flat_map(|major| (0..4).map(move |minor| (major, minor))) {
                        prop_assert_eq!(
                            run(&program, kind, wanted, major, minor),
                            naive(&rules, kind, wanted, major, minor),
                            "kind {} wanted {} {}:{}", kind, wanted, major, minor
                        );
                    }
                }
            }
        }
    }

    fn parsed(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).expect("rules")
    }

    #[test]
    fn a_rule_that_cannot_be_enforced_is_refused_by_name() {
        for json in [r#"[{"allow": true, "type": "p"}]"#, r#"[{"allow": true, "type": "c", "access": "rx"}]"#]
        {
            let error = rule(&parsed(json)[0]).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains("device rule"), "{error}");
        }
    }

    /// A cgroup of this test alone, below where this machine has cgroup v2; removed when dropped.
    struct TestCgroup(PathBuf);

    impl TestCgroup {
        fn new() -> Self {
            let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
            let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let mount = fields.filter(|it| it[2] == "cgroup2").map(|it| PathBuf::from(it[1])).next();
            let folder = mount
                .expect("this test needs cgroup v2")
                .join(format!("opsrun-test-devices-{}", std::process::id()));
            std::fs::create_dir(&folder).expect("this test needs root");
            Self(folder)
        }
    }

    impl Drop for TestCgroup {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }

    /// What comes of a process inside the cgroup opening a device. (Reading could wait for ever.)
    fn open(cgroup: &Path, device: &Path) -> Output {
        Command::new("sh")
            .args(["-c", "echo $$ >\"$0\"/cgroup.procs && exec 3<\"$1\""])
            .args([cgroup, device])
            .output()
            .expect("sh")
    }

    #[test]
    fn the_kernel_enforces_it() {
        let cgroup = TestCgroup::new();
        let folder = tempfile::tempdir().expect("a folder");
        let nodes = [("kmsg", 11), ("zero", 5), ("null", 3)].map(|(name, minor)| {
            let node = folder.path().join(name);
            let device = nix::sys::stat::makedev(1, minor);
            let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
            nix::sys::stat::mknod(&node, nix::sys::stat::SFlag::S_IFCHR, mode, device).expect("mknod");
            node
        });
        let [kmsg, zero, null] = &nodes;
        assert!(open(&cgroup.0, kmsg).status.success(), "without a program it can be opened");

        let rules = parsed(r#"[{"allow": false, "access": "rwm"}]"#);
        attach(&rules, File::open(&cgroup.0).expect("the cgroup").as_fd()).expect("attach");

        let denied = open(&cgroup.0, kmsg);
        let text = String::from_utf8_lossy(&denied.stderr);
        assert!(!denied.status.success() && text.contains("not permitted"), "{text}");
        assert!(open(&cgroup.0, zero).status.success());
        assert!(open(&cgroup.0, null).status.success());
    }
}
