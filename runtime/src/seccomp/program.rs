//! Writes verdicts as a classic BPF program (bpf(4) of the BSDs; Documentation/networking/filter.rst).
//! It knows nothing of names and profiles.
//!
//! ```text
//! load arch ─ is it A? ─ load number ─ binary search over ranges ─ leaf: return, or conditions
//!           ─ is it B? ─ …
//!           ─ end the thread
//! ```
//!
//! Each piece is self-contained and ends in returns, so pieces can be put one behind the other without looking inside.
//! A conditional jump reaches 255 instructions; a longer way takes an unconditional one, which has 32 bits.
//! On the way to a leaf without conditions only `arch` and `nr` are loaded: that is what lets the kernel see that a
//! number is always allowed and skip the program altogether (`seccomp_is_const_allow`, since 5.11).

use nix::libc;
use oci_spec::runtime::LinuxSeccompOperator;

use super::refused;
use super::rules::{Case, Condition, Rule, Verdict};
use crate::error::Error;

/// Offset of `nr` in `struct seccomp_data` (include/uapi/linux/seccomp.h).
const NUMBER_AT: u32 = 0;
/// Offset of `arch`.
const ARCHITECTURE_AT: u32 = 4;
/// Offset of `args`, six times 64 bits; both architectures are little-endian.
const ARGUMENTS_AT: u32 = 16;

/// The longest program the kernel takes (`BPF_MAXINSNS`).
pub(super) const LENGTH_MAX: usize = 4096;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const GO: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    /// How many instructions to leave out when the comparison holds.
    pub(super) jump_true: u8,
    /// How many when it does not.
    pub(super) jump_false: u8,
    pub(super) value: u32,
}

impl Instruction {
    fn plain(code: u16, value: u32) -> Self {
        Self { code, jump_true: 0, jump_false: 0, value }
    }
}

/// The whole program.
pub(super) fn assemble(cases: &[Case]) -> Result<Vec<Instruction>, Error> {
    let mut program = vec![Instruction::plain(LOAD, ARCHITECTURE_AT)];
    for case in cases {
        let mut body = vec![Instruction::plain(LOAD, NUMBER_AT)];
        body.extend(search(&case.ranges));
        program.extend(branch(EQUAL, case.audit, &body));
    }
    program.push(Instruction::plain(RETURN, libc::SECCOMP_RET_KILL_THREAD));
    if program.len() > LENGTH_MAX {
        return Err(refused(format!(
            "it makes a program of {} instructions, and the kernel takes {LENGTH_MAX}",
            program.len()
        )));
    }
    Ok(program)
}

/// `body` when the comparison holds; otherwise goes on behind it.
fn branch(code: u16, value: u32, body: &[Instruction]) -> Vec<Instruction> {
    let mut program = match u8::try_from(body.len()) {
        Ok(length) => vec![Instruction { code, jump_true: 0, jump_false: length, value }],
        Err(_) => vec![
            Instruction { code, jump_true: 1, jump_false: 0, value },
            Instruction::plain(GO, distance(body.len())),
        ],
    };
    program.extend_from_slice(body);
    program
}

/// Finds the range the number (in the accumulator) is in, and gives its verdict.
fn search(ranges: &[(u32, Verdict)]) -> Vec<Instruction> {
    if let [(_, verdict)] = ranges {
        return leaf(verdict);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let mut program = branch(AT_LEAST, high[0].0, &search(high));
    program.extend(search(low));
    program
}

/// Gives a verdict.
fn leaf(verdict: &Verdict) -> Vec<Instruction> {
    let mut program: Vec<Instruction> = verdict.rules.iter().flat_map(conditional).collect();
    program.push(Instruction::plain(RETURN, verdict.otherwise));
    program
}

/// Returns the rule's action when all its conditions hold; otherwise goes on behind it.
fn conditional(rule: &Rule) -> Vec<Instruction> {
    // From the end, because a condition that does not hold jumps over all that follows it.
    let mut program = vec![Instruction::plain(RETURN, rule.action)];
    for condition in rule.conditions.iter().rev() {
        let mut before = place(&test(condition), program.len());
        before.append(&mut program);
        program = before;
    }
    program
}

/// Where a comparison goes.
#[derive(Debug, Clone, Copy)]
enum To {
    /// The next instruction.
    Next,
    /// The condition holds.
    Holds,
    /// It does not.
    Fails,
}

/// An instruction of a condition, before its jumps are known.
enum Step {
    Plain(Instruction),
    Compare { code: u16, value: u32, yes: To, no: To },
}

/// Resolves the jumps of a condition that is followed by `rest` instructions of the same rule.
fn place(steps: &[Step], rest: usize) -> Vec<Instruction> {
    let jump = |index: usize, to: To| {
        let behind = steps.len() - index - 1;
        let length = match to {
            To::Next => 0,
            To::Holds => behind,
            To::Fails => behind + rest,
        };
        u8::try_from(length).expect("OK because six conditions of at most 7 instructions are 42")
    };
    let place = |(index, step): (usize, &Step)| match *step {
        Step::Plain(instruction) => instruction,
        Step::Compare { code, value, yes, no } => {
            Instruction { code, jump_true: jump(index, yes), jump_false: jump(index, no), value }
        }
    };
    steps.iter().enumerate().map(place).collect()
}

/// The comparison of one argument. Registers have 32 bits, so 64 are compared in two halves, as numbers without sign.
fn test(condition: &Condition) -> Vec<Step> {
    use LinuxSeccompOperator as Operator;
    let low_at = ARGUMENTS_AT + 8 * u32::from(condition.argument);
    let load_low = Step::Plain(Instruction::plain(LOAD, low_at));
    let load_high = Step::Plain(Instruction::plain(LOAD, low_at + 4));
    let (high, low) = halves(condition.value);
    let (mask_high, mask_low) = halves(condition.mask);
    let mask = |value| Step::Plain(Instruction::plain(AND, value));
    let compare = |code, value, yes, no| Step::Compare { code, value, yes, no };

    let (low_code, yes, no) = match condition.operator {
        Operator::ScmpCmpEq | Operator::ScmpCmpMaskedEq => (EQUAL, To::Holds, To::Fails),
        Operator::ScmpCmpNe => (EQUAL, To::Fails, To::Holds),
        Operator::ScmpCmpGt => (ABOVE, To::Holds, To::Fails),
        Operator::ScmpCmpLe => (ABOVE, To::Fails, To::Holds),
        Operator::ScmpCmpGe => (AT_LEAST, To::Holds, To::Fails),
        Operator::ScmpCmpLt => (AT_LEAST, To::Fails, To::Holds),
    };
    let mut steps = Vec::new();
    if !condition.low_half {
        steps.push(load_high);
        if mask_high != u32::MAX {
            steps.push(mask(mask_high));
        }
        // Halves that differ decide by themselves: for an order the higher one is above, else it is just not equal.
        if low_code != EQUAL {
            steps.push(compare(ABOVE, high, yes, To::Next));
        }
        steps.push(compare(EQUAL, high, To::Next, no));
    }
    steps.push(load_low);
    if mask_low != u32::MAX {
        steps.push(mask(mask_low));
    }
    steps.push(compare(low_code, low, yes, no));
    steps
}

fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}

fn distance(length: usize) -> u32 {
    u32::try_from(length).expect("OK because a program beyond 4096 instructions is refused before it is used")
}
