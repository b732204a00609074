//! The emitted programs, interpreted as the kernel would, against the rules' plain meaning and against seccompiler.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    emit,
    profile::{Architecture, Condition, Rule, Rules, Test},
    *,
};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const X86_64: u32 = 0xc000_003e;

/// Runs a program on a call. Panics on a jump out of it.
fn interpret(program: &[(u16, u8, u8, u32)], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(architecture.to_ne_bytes());
    data.extend(0u64.to_ne_bytes());
    arguments.iter().for_each(|a| data.extend(a.to_ne_bytes()));
    let (mut at, mut a) = (0usize, 0u32);
    loop {
        let (code, jt, jf, k) = program[at];
        at += 1;
        let branch = |yes: bool| usize::from(if yes { jt } else { jf });
        match code {
            0x20 => a = u32::from_ne_bytes(data[k as usize..][..4].try_into().unwrap()),
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => at += branch(a == k),
            0x25 => at += branch(a > k),
            0x35 => at += branch(a >= k),
            0x06 => return k,
            other => panic!("unexpected instruction {other:#x}"),
        }
    }
}

fn plain(program: &[Instruction]) -> Vec<(u16, u8, u8, u32)> {
    program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect()
}

fn holds(condition: &Condition, arguments: &[u64; 6]) -> bool {
    let argument = arguments[condition.argument as usize];
    match condition.test {
        Test::Equal(v) => argument == v,
        Test::NotEqual(v) => argument != v,
        Test::Less(v) => argument < v,
        Test::LessOrEqual(v) => argument <= v,
        Test::Greater(v) => argument > v,
        Test::GreaterOrEqual(v) => argument >= v,
        Test::Masked { mask, value } => argument & mask == value,
    }
}

fn meaning(rules: &Rules, number: u32, arguments: &[u64; 6]) -> u32 {
    let rules_of = rules.architectures[0].rules.get(&number).into_iter().flatten();
    let mut found = rules_of.filter(|rule| rule.conditions.iter().all(|c| holds(c, arguments)));
    found.next().map_or(rules.default, |rule| rule.action)
}

fn edge() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(5),
        Just(u64::from(u32::MAX)),
        Just(1 << 32),
        Just((1 << 32) + 5),
        Just(u64::MAX),
        any::<u64>()
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    (0u32..6, edge(), edge(), 0u8..7).prop_map(|(argument, value, mask, kind)| {
        let test = match kind {
            0 => Test::Equal(value),
            1 => Test::NotEqual(value),
            2 => Test::Less(value),
            3 => Test::LessOrEqual(value),
            4 => Test::Greater(value),
            5 => Test::GreaterOrEqual(value),
            _ => Test::Masked {
                mask,
                value: value & mask,
            },
        };
        Condition { argument, test }
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    let action = prop_oneof![Just(ALLOW), Just(EPERM), Just(ENOSYS)];
    let rule = (proptest::collection::vec(condition(), 0..4), action)
        .prop_map(|(conditions, action)| Rule { conditions, action });
    proptest::collection::btree_map(0u32..80, proptest::collection::vec(rule, 1..4), 0..60).prop_map(
        |rules: BTreeMap<u32, Vec<Rule>>| Rules {
            default: EPERM,
            architectures: vec![Architecture { audit: X86_64, rules }],
        },
    )
}

proptest! {
    #[test]
    fn a_program_means_what_its_rules_mean(rules in rules(), arguments in proptest::array::uniform6(edge())) {
        let program = plain(&emit::program(&rules));
        for number in (0..90).chain([u32::MAX, 0x4000_0000]) {
            prop_assert_eq!(interpret(&program, X86_64, number, arguments), meaning(&rules, number, &arguments));
        }
        prop_assert_eq!(interpret(&program, 0x4000_0003, 1, arguments), EPERM, "another architecture");
    }
}

fn default_program(bounding: u64) -> Vec<Instruction> {
    let rules = profile::parse(DEFAULT, bounding).unwrap();
    emit::program(&rules)
}

/// The same rules through seccompiler: one filter, as all of the default profile's rules but clone3's allow.
#[test]
fn the_default_profile_is_what_seccompiler_makes_of_it() {
    use seccompiler::{
        SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    };
    let rules = profile::parse(DEFAULT, 0xa804_25fb).unwrap();
    let mut theirs: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (number, list) in &rules.architectures[0].rules {
        let allowing: Vec<_> = list.iter().filter(|rule| rule.action == ALLOW).collect();
        let entry: Vec<_> = allowing
            .iter()
            .filter(|r| !r.conditions.is_empty())
            .map(|rule| {
                let conditions = rule.conditions.iter().map(|c| {
                    let (op, value) = match c.test {
                        Test::Equal(v) => (SeccompCmpOp::Eq, v),
                        Test::NotEqual(v) => (SeccompCmpOp::Ne, v),
                        Test::Less(v) => (SeccompCmpOp::Lt, v),
                        Test::LessOrEqual(v) => (SeccompCmpOp::Le, v),
                        Test::Greater(v) => (SeccompCmpOp::Gt, v),
                        Test::GreaterOrEqual(v) => (SeccompCmpOp::Ge, v),
                        Test::Masked { mask, value } => (SeccompCmpOp::MaskedEq(mask), value),
                    };
                    SeccompCondition::new(c.argument as u8, SeccompCmpArgLen::Qword, op, value).unwrap()
                });
                SeccompRule::new(conditions.collect()).unwrap()
            })
            .collect();
        let unconditional = allowing.iter().any(|r| r.conditions.is_empty());
        if !allowing.is_empty() {
            theirs.insert(i64::from(*number), if unconditional { Vec::new() } else { entry });
        }
    }
    let filter = SeccompFilter::new(
        theirs,
        SeccompAction::Errno(1),
        SeccompAction::Allow,
        TargetArch::x86_64,
    )
    .unwrap();
    let oracle: seccompiler::BpfProgram = filter.try_into().unwrap();
    let oracle: Vec<_> = oracle.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
    let ours = plain(&default_program(0xa804_25fb));
    let edges = [
        0u64,
        1,
        2,
        8,
        40,
        0x2_0000,
        0x7e02_0000,
        0xffff_ffff,
        1 << 32,
        (1 << 32) + 40,
        u64::MAX,
    ];
    let clone3 = 435;
    for number in (0..600).filter(|n| *n != clone3) {
        for first in edges {
            let arguments = [first, 0, 0, 0, 0, 0];
            let (a, b) = (
                interpret(&ours, X86_64, number, arguments),
                interpret(&oracle, X86_64, number, arguments),
            );
            assert_eq!(a, b, "system call {number} with {first:#x}");
        }
    }
    assert_eq!(interpret(&ours, X86_64, clone3, [0; 6]), ENOSYS);
}

#[test]
fn the_default_profile_is_short() {
    let length = default_program(0xa804_25fb).len();
    println!("default profile: {length} instructions for two architectures");
    assert!(length < 500, "{length}");
}

#[test]
fn thirty_two_bit_calls_are_filtered_by_their_own_numbers() {
    let program = plain(&default_program(0xa804_25fb));
    const I386: u32 = 0x4000_0003;
    assert_eq!(interpret(&program, I386, 4, [0; 6]), ALLOW, "write");
    assert_eq!(interpret(&program, I386, 21, [0; 6]), EPERM, "mount");
}

#[test]
fn a_container_keeps_its_project_by_whatever_call() {
    const I386: u32 = 0x4000_0003;
    const TCGETS: u64 = 0x5401;
    let compiled = |text: &str| {
        let mut rules = profile::parse(text, 0xa804_25fb).unwrap();
        project::keep_projects(&mut rules);
        plain(&emit::program(&rules))
    };
    let no_32_bit = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
        "syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO"}]}"#;
    for text in [DEFAULT, EVERYTHING, no_32_bit] {
        let program = compiled(text);
        for (architecture, ioctl) in [(X86_64, 16), (I386, 54)] {
            let call = |command| interpret(&program, architecture, ioctl, [3, command, 0, 0, 0, 0]);
            for command in [0x401c_5820, 0x4008_6602, 0x4004_6602, 1 << 32 | 0x401c_5820] {
                assert_eq!(call(command), EPERM, "{command:#x} of {architecture:#x}");
            }
            assert_eq!(call(TCGETS), ALLOW);
            assert_ne!(interpret(&program, architecture, 469, [0; 6]), ALLOW, "file_setattr");
        }
        for x32 in [16, 514] {
            let call = interpret(&program, X86_64, 0x4000_0000 + x32, [3, 0x401c_5820, 0, 0, 0, 0]);
            assert_eq!(call, EPERM, "{x32} of x32");
        }
    }
    let program = compiled(no_32_bit);
    assert_eq!(interpret(&program, X86_64, 165, [0; 6]), EPERM, "mount");
    assert_eq!(
        interpret(&program, I386, 21, [0; 6]),
        ALLOW,
        "mount, which the profile does not know of there"
    );
}

#[test]
fn only_who_must_keep_a_project_has_a_filter_for_that() {
    let compile = |security: &Security, keeps| compile(security, &CapabilitySets::default(), keeps).unwrap();
    let unconfined = Security {
        seccomp: Profile::Unconfined,
        ..crate::spec::test_security()
    };
    assert!(compile(&unconfined, false).is_none());
    assert!(compile(&unconfined, true).is_some());
    let default = Security {
        seccomp: Profile::RuntimeDefault,
        ..unconfined.clone()
    };
    let [without, with] = [false, true].map(|keeps| compile(&default, keeps).unwrap());
    assert_ne!(without.instructions(), with.instructions());
    let privileged = Security {
        privileged: true,
        ..unconfined
    };
    assert!(compile(&privileged, true).is_none());
}

#[test]
fn faults_are_named() {
    let parse = |text: &str| profile::parse(text, 0).unwrap_err();
    assert!(parse("{}").contains("defaultAction"));
    assert!(parse(r#"{"defaultAction":"SCMP_ACT_X"}"#).contains("defaultAction"));
    let bad_op = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"op":"X"}]}]}"#;
    assert!(parse(bad_op).contains("syscalls[0].args"));
    let notify = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#;
    assert!(parse(notify).contains("syscalls[0].action"));
    let missing = Security {
        seccomp: Profile::Localhost("/nonexistent/p.json".into()),
        ..crate::spec::test_security()
    };
    assert!(
        compile(&missing, &CapabilitySets::default(), false)
            .unwrap_err()
            .to_string()
            .contains("/nonexistent/p.json")
    );
}
