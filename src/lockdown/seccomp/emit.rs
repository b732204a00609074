//! Rules to BPF: ranges of numbers with the same action are merged, and found by binary search.
//!
//! seccompiler emits one comparison per number (about 1,770 instructions for the default profile, 0.9 ms to load at
//! every start and exec); ranges and a search tree need an order of magnitude fewer. It serves as the tests' oracle.
//!
//! Source: kernel "Seccomp BPF"; linux/seccomp.h, `struct seccomp_data`.

use super::profile::{Architecture, Condition, Rule, Rules, Test};
use crate::sys::seccomp::Instruction;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// What happens to a range of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leaf {
    Action(u32),
    Rules(Vec<Rule>),
}

/// The program. Calls of an architecture that the rules do not cover get the default action; so do x32 calls that they do
/// not name, whose numbers are above all others.
pub fn program(rules: &Rules) -> Vec<Instruction> {
    let mut program = vec![op(LOAD, 0, 0, ARCHITECTURE)];
    for architecture in &rules.architectures {
        let body = search(&ranges(architecture, rules.default), rules.default);
        // Another architecture: over the load of the number and the body. The body may be longer than a short jump.
        program.push(op(JUMP_EQUAL, 1, 0, architecture.audit));
        program.push(op(JUMP, 0, 0, 1 + length(&body)));
        program.push(op(LOAD, 0, 0, NUMBER));
        program.extend(body);
    }
    program.push(op(RETURN, 0, 0, rules.default));
    program
}

/// The first number of each range and what happens in it, covering all numbers.
fn ranges(architecture: &Architecture, default: u32) -> Vec<(u32, Leaf)> {
    let mut ranges: Vec<(u32, Leaf)> = vec![(0, Leaf::Action(default))];
    let mut add = |first: u32, leaf: Leaf| match ranges.last_mut() {
        Some(last) if last.0 == first => last.1 = leaf,
        Some(last) if last.1 == leaf => {}
        _ => ranges.push((first, leaf)),
    };
    for (&number, rules) in &architecture.rules {
        add(number, leaf(rules, default));
        add(number + 1, Leaf::Action(default));
    }
    // A range that was overwritten may now equal the one before it.
    ranges.dedup_by(|next, before| next.1 == before.1);
    ranges
}

/// Rules after one without conditions can never match.
fn leaf(rules: &[Rule], default: u32) -> Leaf {
    let end = rules
        .iter()
        .position(|rule| rule.conditions.is_empty())
        .map_or(rules.len(), |at| at + 1);
    match &rules[..end] {
        [] => Leaf::Action(default),
        // As libseccomp has it, a rule for all arguments wins over those for some.
        [.., last] if last.conditions.is_empty() && rules[..end - 1].iter().all(|r| r.action == last.action) => {
            Leaf::Action(last.action)
        }
        some => Leaf::Rules(some.to_vec()),
    }
}

fn search(ranges: &[(u32, Leaf)], default: u32) -> Vec<Instruction> {
    if let [(_, leaf)] = ranges {
        return match leaf {
            Leaf::Action(action) => vec![op(RETURN, 0, 0, *action)],
            Leaf::Rules(rules) => chain(rules, default),
        };
    }
    let middle = ranges.len() / 2;
    let (low, high) = (search(&ranges[..middle], default), search(&ranges[middle..], default));
    let mut out = Vec::with_capacity(low.len() + high.len() + 2);
    match u8::try_from(low.len()) {
        Ok(skip) => out.push(op(JUMP_GREATER_EQUAL, skip, 0, ranges[middle].0)),
        Err(_) => {
            out.push(op(JUMP_GREATER_EQUAL, 0, 1, ranges[middle].0));
            out.push(op(JUMP, 0, 0, length(&low)));
        }
    }
    out.extend(low);
    out.extend(high);
    out
}

/// Rules with conditions, tried in order.
fn chain(rules: &[Rule], default: u32) -> Vec<Instruction> {
    let mut out = Vec::new();
    for rule in rules {
        // From the last condition to the first, so that each knows how far the end of the rule is.
        let mut body = vec![op(RETURN, 0, 0, rule.action)];
        for condition in rule.conditions.iter().rev() {
            let mut test = emit(condition, body.len());
            test.extend(body);
            body = test;
        }
        out.extend(body);
    }
    out.push(op(RETURN, 0, 0, default));
    out
}

/// A condition in front of `rest` instructions of its rule: falls through when it holds, jumps over them otherwise.
fn emit(condition: &Condition, rest: usize) -> Vec<Instruction> {
    let low_word = ARGUMENTS + 8 * condition.argument;
    let (low, high) = if cfg!(target_endian = "little") {
        (low_word, low_word + 4)
    } else {
        (low_word + 4, low_word)
    };
    let split = |value: u64| ((value >> 32) as u32, value as u32);
    // At most six conditions of at most seven instructions: every jump is short.
    let over = |left: usize| u8::try_from(rest + left).unwrap_or(u8::MAX);
    let load = |word| op(LOAD, 0, 0, word);
    match condition.test {
        Test::Equal(value) => {
            let (h, l) = split(value);
            vec![
                load(high),
                op(JUMP_EQUAL, 0, over(2), h),
                load(low),
                op(JUMP_EQUAL, 0, over(0), l),
            ]
        }
        Test::NotEqual(value) => {
            let (h, l) = split(value);
            vec![
                load(high),
                op(JUMP_EQUAL, 0, 2, h),
                load(low),
                op(JUMP_EQUAL, over(0), 0, l),
            ]
        }
        Test::Masked { mask, value } => {
            let ((mh, ml), (h, l)) = (split(mask), split(value));
            vec![
                load(high),
                op(AND, 0, 0, mh),
                op(JUMP_EQUAL, 0, over(3), h),
                load(low),
                op(AND, 0, 0, ml),
                op(JUMP_EQUAL, 0, over(0), l),
            ]
        }
        // Holds when the high word is greater; does not when it is less; else the low word decides.
        Test::Greater(value) => ordered(value, JUMP_GREATER, true, load(high), load(low), over),
        Test::GreaterOrEqual(value) => ordered(value, JUMP_GREATER_EQUAL, true, load(high), load(low), over),
        // The same with the answers turned round.
        Test::LessOrEqual(value) => ordered(value, JUMP_GREATER, false, load(high), load(low), over),
        Test::Less(value) => ordered(value, JUMP_GREATER_EQUAL, false, load(high), load(low), over),
    }
}

fn ordered(
    value: u64,
    compare: u16,
    holds: bool,
    load_high: Instruction,
    load_low: Instruction,
    over: impl Fn(usize) -> u8,
) -> Vec<Instruction> {
    let (h, l) = ((value >> 32) as u32, value as u32);
    let pick = |yes: u8, no: u8| if holds { (yes, no) } else { (no, yes) };
    // After the first test three instructions of the condition are left, after the second two, after the last none.
    let (greater, not_greater) = if holds { (3, 0) } else { (over(3), 0) };
    let equal_else = if holds { over(2) } else { 2 };
    let (low_yes, low_no) = pick(0, over(0));
    vec![
        load_high,
        op(JUMP_GREATER, greater, not_greater, h),
        op(JUMP_EQUAL, 0, equal_else, h),
        load_low,
        op(compare, low_yes, low_no, l),
    ]
}

fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

fn length(program: &[Instruction]) -> u32 {
    u32::try_from(program.len()).unwrap_or(u32::MAX)
}
