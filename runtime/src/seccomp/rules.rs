//! Turns a profile into what happens to each number of each call convention.
//! It knows nothing of instructions.

use std::collections::BTreeMap;

use nix::libc;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::abi::{Abi, NATIVE, X32_BIT};
use super::refused;
use crate::error::Error;

/// `SECCOMP_RET_ERRNO | ENOSYS`.
const NOT_IMPLEMENTED: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The highest error number a filter may return (`MAX_ERRNO`, kernel/seccomp.c); above it the kernel would say 4095.
const ERROR_NUMBER_MAX: u32 = 4095;

/// All numbers of one architecture, as the kernel tells architectures apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Case {
    /// `arch` of `struct seccomp_data`.
    pub(super) audit: u32,
    /// From each number on, up to the next one in the list, this verdict; ascending, the first is 0, and neighbours
    /// differ.
    pub(super) ranges: Vec<(u32, Verdict)>,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The first rule all of whose conditions hold decides.
    pub(super) rules: Vec<Rule>,
    /// The kernel's value for the action when none does.
    pub(super) otherwise: u32,
}

/// A rule with conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// All of them must hold; never empty.
    pub(super) conditions: Vec<Condition>,
    /// The kernel's value for the action.
    pub(super) action: u32,
}

/// A condition on an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// Which, 0 to 5.
    pub(super) argument: u8,
    /// How the argument is compared.
    pub(super) operator: LinuxSeccompOperator,
    /// Applied to the argument and to the value before they are compared; all ones except for `MASKED_EQ`.
    pub(super) mask: u64,
    /// What it is compared with.
    pub(super) value: u64,
    /// Whether the argument's low half is all there is.
    pub(super) low_half: bool,
}

/// What a profile says of one call.
#[derive(Debug, Default)]
struct Said {
    always: Option<u32>,
    sometimes: Vec<Rule>,
}

/// What happens to every number of every architecture that the profile lists, and of this machine's own.
pub(super) fn cases(profile: &LinuxSeccomp) -> Result<Vec<Case>, Error> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let listed = profile.architectures().iter().flatten().copied().filter_map(Abi::of);
    // The native one always belongs to it, as with libseccomp: without it not even execve would pass.
    let mut abis: Vec<Abi> = std::iter::once(NATIVE).chain(listed).collect();
    abis.sort_unstable();
    abis.dedup();

    let mut cases: Vec<Case> = Vec::new();
    for abi in abis {
        let ranges = ranges(abi, profile, default)?;
        match cases.iter_mut().find(|case| case.audit == abi.audit()) {
            // x32 after x86_64: the same architecture, its numbers are those from the bit on.
            Some(case) => {
                case.ranges.retain(|range| range.0 < X32_BIT);
                case.ranges.extend(ranges.into_iter().filter(|range| range.0 >= X32_BIT));
            }
            None => cases.push(Case { audit: abi.audit(), ranges }),
        }
    }
    for case in &mut cases {
        case.ranges.dedup_by(|next, previous| next.1 == previous.1);
    }
    Ok(cases)
}

/// What happens to each number of one call convention.
fn ranges(abi: Abi, profile: &LinuxSeccomp, default: u32) -> Result<Vec<(u32, Verdict)>, Error> {
    let verdict = |otherwise| Verdict { rules: Vec::new(), otherwise };
    let unknown = if is_permissive(profile.default_action()) { default } else { NOT_IMPLEMENTED };
    // Once a profile names nothing at all there is no telling what it has not heard of.
    let newer_from = last_named(abi, profile).map(|last| last + 1);
    let default_at = |number: u32| match newer_from {
        Some(from) if number >= from => unknown,
        _ => default,
    };

    let mut starts = BTreeMap::from([(0, verdict(default_at(0)))]);
    match abi {
        Abi::X86_64 => {
            // Until x32 takes its numbers over, they are calls of a convention that is not listed.
            starts.insert(X32_BIT, verdict(libc::SECCOMP_RET_KILL_THREAD));
        }
        Abi::X32 => {
            starts.insert(X32_BIT, verdict(default_at(X32_BIT)));
        }
        Abi::X86 | Abi::Aarch64 | Abi::Arm => {}
    }
    if let Some(from) = newer_from {
        starts.insert(from, verdict(default_at(from)));
    }
    let said = said(abi, profile, default)?;
    for number in said.keys() {
        starts.entry(number + 1).or_insert_with(|| verdict(default_at(number + 1)));
    }
    for (number, said) in said {
        let verdict = match said.always {
            Some(action) => verdict(action),
            None => Verdict { rules: said.sometimes, otherwise: default_at(number) },
        };
        starts.insert(number, verdict);
    }
    Ok(starts.into_iter().collect())
}

/// All that the profile says, by number.
fn said(abi: Abi, profile: &LinuxSeccomp, default: u32) -> Result<BTreeMap<u32, Said>, Error> {
    let mut said: BTreeMap<u32, Said> = BTreeMap::new();
    for call in profile.syscalls().iter().flatten() {
        let action = action(call.action(), call.errno_ret())?;
        let alternatives = alternatives(abi, call)?;
        if action == default {
            continue;
        }
        for name in call.names() {
            if let Some(number) = abi.number(name) {
                let said = said.entry(number).or_default();
                if alternatives.is_empty() {
                    said.always.get_or_insert(action);
                }
                let rules =
                    alternatives.iter().map(|conditions| Rule { conditions: conditions.clone(), action });
                said.sometimes.extend(rules);
            }
            if let Some((outer, inner)) = abi.behind(name) {
                // The call's own arguments lie in memory, where no filter can look; so its conditions count as met.
                let inner = Condition {
                    argument: 0,
                    operator: LinuxSeccompOperator::ScmpCmpEq,
                    mask: u64::MAX,
                    value: u64::from(inner),
                    low_half: true,
                };
                said.entry(outer).or_default().sometimes.push(Rule { conditions: vec![inner], action });
            }
        }
    }
    Ok(said)
}

/// The sets of conditions any of which is enough; none when there is no condition.
fn alternatives(abi: Abi, call: &LinuxSyscall) -> Result<Vec<Vec<Condition>>, Error> {
    let arguments = call.args().as_deref().unwrap_or_default();
    let conditions: Vec<Condition> =
        arguments.iter().map(|argument| condition(abi, call, argument)).collect::<Result<_, _>>()?;
    let mut indices: Vec<u8> = conditions.iter().map(|it| it.argument).collect();
    indices.sort_unstable();
    let repeated = indices.windows(2).any(|pair| pair[0] == pair[1]);
    Ok(match conditions {
        conditions if conditions.is_empty() => Vec::new(),
        conditions if repeated => conditions.into_iter().map(|it| vec![it]).collect(),
        conditions => vec![conditions],
    })
}

fn condition(abi: Abi, call: &LinuxSyscall, argument: &LinuxSeccompArg) -> Result<Condition, Error> {
    let index = u8::try_from(argument.index()).ok().filter(|index| *index < 6).ok_or_else(|| {
        refused(format!("{} has no argument {}, they are 0 to 5", call.names().join(", "), argument.index()))
    })?;
    let (mask, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpMaskedEq => (argument.value(), argument.value_two().unwrap_or(0)),
        _ => (u64::MAX, argument.value()),
    };
    Ok(Condition {
        argument: index,
        operator: argument.op(),
        mask,
        // libseccomp masks both sides; otherwise a bit outside the mask would make a condition that never holds.
        value: value & mask,
        low_half: abi.is_32_bit(),
    })
}

/// The highest number the profile names, whatever it says of it; `None` when it names none.
fn last_named(abi: Abi, profile: &LinuxSeccomp) -> Option<u32> {
    profile
        .syscalls()
        .iter()
        .flatten()
        .flat_map(LinuxSyscall::names)
        .filter_map(|name| abi.number(name))
        .filter(|number| !abi.is_private(*number))
        .max()
}

/// Whether a call that no rule names is let through, so that a newer one is too. A tracer answers for itself.
fn is_permissive(action: LinuxSeccompAction) -> bool {
    matches!(
        action,
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace
    )
}

/// The kernel's value for an action. An error number that is not given is EPERM, as with runc.
fn action(action: LinuxSeccompAction, error_number: Option<u32>) -> Result<u32, Error> {
    let data = error_number.unwrap_or(libc::EPERM as u32);
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            Ok(libc::SECCOMP_RET_KILL_THREAD)
        }
        LinuxSeccompAction::ScmpActKillProcess => Ok(libc::SECCOMP_RET_KILL_PROCESS),
        LinuxSeccompAction::ScmpActTrap => Ok(libc::SECCOMP_RET_TRAP),
        LinuxSeccompAction::ScmpActErrno if data > ERROR_NUMBER_MAX => {
            Err(refused(format!("{data} is no error number, the highest is {ERROR_NUMBER_MAX}")))
        }
        LinuxSeccompAction::ScmpActErrno => Ok(libc::SECCOMP_RET_ERRNO | data),
        LinuxSeccompAction::ScmpActTrace if data > libc::SECCOMP_RET_DATA => {
            Err(refused(format!("{data} does not fit into the 16 bits that a tracer is told")))
        }
        LinuxSeccompAction::ScmpActTrace => Ok(libc::SECCOMP_RET_TRACE | data),
        LinuxSeccompAction::ScmpActLog => Ok(libc::SECCOMP_RET_LOG),
        LinuxSeccompAction::ScmpActAllow => Ok(libc::SECCOMP_RET_ALLOW),
        LinuxSeccompAction::ScmpActNotify => Err(refused("SCMP_ACT_NOTIFY is not supported in a profile")),
    }
}
