//! The programs are run by a small interpreter, over every number that chance can be.

use super::*;

/// What the kernel's machine does with the instructions that are used here.
struct Packet {
    random: u32,
    cpu: u32,
    bytes: Vec<u8>,
}

fn run(program: &[Instruction], packet: &Packet) -> u32 {
    let (mut a, mut x, mut memory, mut at) = (0u32, 0u32, [0u32; 16], 0);
    let load = |from: usize, width: usize| {
        let bytes = packet.bytes.get(from..from + width)?;
        Some(
            bytes
                .iter()
                .fold(0, |word, &byte| word << 8 | u32::from(byte)),
        )
    };
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let jump = |is: bool| usize::from(if is { jt } else { jf });
        match code {
            LD_WORD if k == AD_RANDOM => a = packet.random,
            LD_WORD if k == AD_CPU => a = packet.cpu,
            // No IP header is played, and a load that fails ends with 0.
            LD_WORD | LD_HALF | LD_BYTE => {
                let width = match code {
                    LD_WORD => 4,
                    LD_HALF => 2,
                    _ => 1,
                };
                match load(k as usize, width) {
                    Some(word) => a = word,
                    None => return 0,
                }
            }
            LD_LEN => a = packet.bytes.len() as u32,
            LD_MEM => a = memory[k as usize],
            LDX_MEM => x = memory[k as usize],
            ST => memory[k as usize] = a,
            TAX => x = a,
            ADD => a = a.wrapping_add(k),
            SUB => a = a.wrapping_sub(k),
            MUL => a = a.wrapping_mul(k),
            DIV => a /= k,
            MOD => a %= k,
            AND => a &= k,
            RSH => a >>= k,
            XOR_X => a ^= x,
            JA => at += k as usize,
            JEQ => at += jump(a == k),
            JGE => at += jump(a >= k),
            JSET => at += jump(a & k != 0),
            RET => return k,
            RET_A => return a,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn spread(program: &[Instruction], cpu: u32, numbers: u32) -> BTreeMap<u32, u32> {
    let mut got = BTreeMap::new();
    for random in 0..numbers {
        let bytes = Vec::new();
        let place = run(program, &Packet { random, cpu, bytes });
        *got.entry(place).or_default() += 1;
    }
    got
}

#[test]
fn each_place_gets_its_weight() {
    let cases: &[&[(usize, u32)]] = &[
        &[(0, 1)],
        &[(7, 3)],
        &[(0, 1), (1, 1), (2, 1)],
        &[(3, 1), (4, 1), (5, 1), (6, 1)],
        &[(0, 2), (1, 0), (2, 5)],
        &[(1, 3), (3, 3), (5, 3), (6, 3)],
        &[(5, 1), (0, 4), (2, 4), (4, 4)],
        &[(0, 1), (2, 1), (4, 1), (5, 1), (6, 1), (9, 1)],
    ];
    for shares in cases {
        let program = weighted(Kind::Tcp, shares);
        let sum: u32 = shares.iter().map(|share| share.1).sum();
        let expected = shares.iter().filter(|share| share.1 > 0);
        let expected = expected
            .map(|&(place, weight)| (place as u32, weight))
            .collect();
        assert_eq!(
            spread(&program, 0, sum),
            expected,
            "{shares:?}: {program:?}"
        );
    }
}

#[test]
fn weights_that_do_not_fit_32_bits_are_cut_and_none_of_them_to_nothing() {
    let shares = [(0, u32::MAX), (1, u32::MAX), (2, 1)];
    let scaled = scaled(&shares);
    assert!(scaled.iter().map(|share| u64::from(share.1)).sum::<u64>() <= u64::from(u32::MAX));
    assert!(scaled.iter().all(|share| share.1 > 0));
    assert_eq!(scaled[0].1, scaled[1].1);
}

#[test]
fn a_program_is_as_long_as_the_group_is_irregular() {
    let all: Vec<_> = (0..32_768).map(|place| (place, 1)).collect();
    assert!(weighted(Kind::Tcp, &all).len() < 10);
    let behind: Vec<_> = (10_000..32_768).map(|place| (place, 5)).collect();
    assert!(weighted(Kind::Tcp, &behind).len() < 10);
    let cpus: Vec<_> = (0..32_768).map(|place| (place % 64, (place, 1))).collect();
    assert!(by_cpu(Kind::Tcp, &cpus).len() < 600);
    assert!(by_cpu(Kind::Udp, &cpus).len() < 600);
    let numbers: Vec<_> = (0..32_768).map(|place| (place as u32, place)).collect();
    assert!(by_number(Layout::At(0), true, &numbers).len() < 20);
}

#[test]
fn a_processor_has_its_members_and_no_other() {
    // A processor each, in any order of places.
    let places = [(0, 4), (1, 5), (2, 6), (5, 1)];
    let program = by_cpu(Kind::Tcp, &places.map(|(cpu, place)| (cpu, (place, 1))));
    for (cpu, place) in places {
        assert_eq!(spread(&program, cpu as u32, 3), [(place as u32, 3)].into());
    }
    for other in [3, 4, 6, 1 << 20] {
        assert_eq!(spread(&program, other, 1), [(TO_THE_HASH, 1)].into());
    }
    // Several for one.
    let program = by_cpu(
        Kind::Tcp,
        &[(0, 0), (1, 1), (0, 2), (1, 3), (0, 4)].map(|(cpu, place)| (cpu, (place, 1))),
    );
    assert_eq!(spread(&program, 0, 9), [(0, 3), (2, 3), (4, 3)].into());
    assert_eq!(spread(&program, 1, 8), [(1, 4), (3, 4)].into());
    assert_eq!(spread(&program, 2, 1), [(TO_THE_HASH, 1)].into());
}

#[test]
fn a_number_has_its_place_and_others_have_the_rest() {
    let places: Vec<(u32, usize)> = vec![(0, 3), (1, 4), (2, 5), (4, 0), (9, 2), (10, 1)];
    let rest = weighted(Kind::Tcp, &[(8, 1)]);
    let program = or_else(by_number(Layout::At(1), false, &places), &rest);
    let place = |bytes: &[u8]| {
        let bytes = bytes.to_vec();
        let (random, cpu) = (0, 0);
        run(&program, &Packet { random, cpu, bytes })
    };
    for (number, expected) in places {
        assert_eq!(place(&[0xff, number as u8, 0xff]), expected as u32);
    }
    for number in [3, 5, 8, 11, 255] {
        assert_eq!(place(&[0, number]), 8);
    }
    assert_eq!(place(&[0]), 8);
    assert_eq!(place(&[]), 8);
}

#[test]
fn a_processor_whose_members_get_nothing_is_left_to_the_hash() {
    let program = by_cpu(Kind::Tcp, &[(0, (0, 0)), (1, (1, 3)), (1, (2, 1))]);
    assert_eq!(spread(&program, 0, 1), [(TO_THE_HASH, 1)].into());
    assert_eq!(spread(&program, 1, 4), [(1, 3), (2, 1)].into());
}

#[test]
fn each_slot_has_the_place_that_it_is_given() {
    let ways: [&dyn Fn(usize) -> usize; 4] =
        [&|_| 3, &|slot| slot, &|slot| slot / 7, &|slot| slot % 2];
    for count in [1, 256, 1024] {
        for way in ways {
            let owners: Vec<usize> = (0..count).map(way).collect();
            let program = by_slot(&owners);
            assert!(program.len() < 2 * count + 100, "{}", program.len());
            // Without an IP header to play, the slot is what the program begins with.
            let program = [&[op(LD_WORD, AD_RANDOM)], &program[FLOW_HASH.len()..]].concat();
            for random in 0..3 * count as u32 {
                let (cpu, bytes) = (0, Vec::new());
                let place = run(&program, &Packet { random, cpu, bytes });
                assert_eq!(place as usize, owners[random as usize % count]);
            }
        }
    }
    assert_eq!(by_slot(&[]).last(), Some(&op(RET, TO_THE_HASH)));
}

/// Numbers from the whole range, and those about the bound.
#[test]
fn a_part_of_all_numbers_goes_to_some_and_the_rest_to_the_rest() {
    let rest = || weighted(Kind::Tcp, &[(0, 1), (1, 1)]);
    let some = [(4, 1), (6, 1), (7, 1)];
    for part in [0.0, f64::MIN_POSITIVE, 0.01, 0.1, 0.5, 0.999, 1.0] {
        let program = split(Kind::Tcp, part, &some, rest());
        let bound = (part * f64::from(u32::MAX)).round() as u32;
        let bound = bound.max(u32::from(part > 0.0));
        let all = (0..=u32::MAX).step_by(65_537);
        let near = (0..4).flat_map(|by| [bound.wrapping_add(by), bound.wrapping_sub(by)]);
        let mut seen = [0.0, 0.0];
        for random in all.chain(near) {
            let (cpu, bytes) = (0, Vec::new());
            let place = run(&program, &Packet { random, cpu, bytes });
            let is_some = random < bound || part == 1.0;
            let expected: &[u32] = if is_some { &[4, 6, 7] } else { &[0, 1] };
            assert!(expected.contains(&place), "{random} of {part}: {place}");
            seen[usize::from(is_some)] += 1.0;
        }
        let share = seen[1] / (seen[0] + seen[1]);
        assert!((share - part).abs() < 0.001, "{share} of {part}");
    }
}
