//! The classic BPF programs by which a group is steered.
//!
//! A program returns the index of the member that gets a connection or datagram. An index that no
//! member has leaves the choice to the kernel's hash, and a load past the end of a datagram returns
//! 0, so every load is preceded by a look at the length (kernel: reuseport_select_sock,
//! bpf_prog_run_clear_cb).

use std::collections::BTreeMap;

use crate::sys::{Instruction, Kind};

/// The most instructions that the kernel takes (BPF_MAXINSNS).
pub(super) const LONGEST: usize = 4096;

/// No member has this index.
const TO_THE_HASH: u32 = u32::MAX;

// linux/bpf_common.h and linux/filter.h.
const LD_BYTE: u16 = 0x30;
const LD_HALF: u16 = 0x28;
const LD_WORD: u16 = 0x20;
const LD_WORD_X: u16 = 0x40;
const LD_LEN: u16 = 0x80;
const LDX_HEADER_LEN: u16 = 0xb1;
const LDX_MEM: u16 = 0x61;
const ST: u16 = 0x02;
const LD_MEM: u16 = 0x60;
const ADD: u16 = 0x04;
const SUB: u16 = 0x14;
const DIV: u16 = 0x34;
const AND: u16 = 0x54;
const MUL: u16 = 0x24;
const MOD: u16 = 0x94;
const RSH: u16 = 0x74;
const XOR_X: u16 = 0xac;
const TAX: u16 = 0x07;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;
const RET: u16 = 0x06;
const RET_A: u16 = 0x16;

/// Where the IP header begins (SKF_NET_OFF); offset 0 is the payload.
const NET: u32 = -0x10_0000_i32 as u32;
/// What the kernel knows beside the packet (SKF_AD_OFF).
const AD_CPU: u32 = (-0x1000_i32 + 36) as u32;
const AD_RANDOM: u32 = (-0x1000_i32 + 56) as u32;

const fn op(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// A hash of the source address and the ports, in A, the same for every datagram of a flow.
///
/// Not SKF_AD_RXHASH, which is 0 on many devices.
const FLOW_HASH: [Instruction; 26] = [
    op(LD_BYTE, NET),
    op(RSH, 4),
    jump(JEQ, 6, 5, 0),
    // IPv4: behind a header of any length stand the ports.
    op(LDX_HEADER_LEN, NET),
    op(LD_WORD_X, NET),
    op(ST, 0),
    op(LD_WORD, NET.wrapping_add(12)),
    op(JA, 7),
    // IPv6: the lower half of the address.
    op(LD_WORD, NET.wrapping_add(40)),
    op(ST, 0),
    op(LD_WORD, NET.wrapping_add(16)),
    op(MUL, 31),
    op(TAX, 0),
    op(LD_WORD, NET.wrapping_add(20)),
    op(XOR_X, 0),
    // The constants of Fibonacci hashing and of MurmurHash3's end.
    op(MUL, 0x9E37_79B1),
    op(LDX_MEM, 0),
    op(XOR_X, 0),
    op(MUL, 0x85EB_CA6B),
    op(TAX, 0),
    op(RSH, 16),
    op(XOR_X, 0),
    op(MUL, 0xC2B2_AE35),
    op(TAX, 0),
    op(RSH, 16),
    op(XOR_X, 0),
];

/// Members at equal distances in the group, each with the same weight: so that a program is as long as
/// the group has irregularities, and not as it has members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u32,
    step: u32,
    count: u32,
    weight: u32,
}

impl Run {
    /// The runs of members, which are sorted by their places.
    fn of(shares: &[(usize, u32)]) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for &(place, weight) in shares {
            let place = place as u32;
            if let Some(run) = runs.last_mut().filter(|run| run.weight == weight) {
                let step = place - (run.first + (run.count - 1) * run.step);
                if run.count == 1 || step == run.step {
                    run.step = step;
                    run.count += 1;
                    continue;
                }
            }
            runs.push(Self {
                first: place,
                step: 1,
                count: 1,
                weight,
            });
        }
        runs
    }

    fn total(&self) -> u32 {
        self.count * self.weight
    }

    /// Returns the place in this run that a number in A stands for, which counts from `base`.
    fn choose(&self, base: u32) -> Vec<Instruction> {
        if self.count == 1 {
            return vec![op(RET, self.first)];
        }
        let mut program = Vec::with_capacity(5);
        let mut unless = |code, k, neutral| {
            if k != neutral {
                program.push(op(code, k));
            }
        };
        unless(SUB, base, 0);
        unless(DIV, self.weight, 1);
        unless(MUL, self.step, 1);
        unless(ADD, self.first, 0);
        program.push(op(RET_A, 0));
        program
    }
}

/// Cuts weights so that their sum and one for each fit 32 bits, which is how the kernel counts.
fn scaled(shares: &[(usize, u32)]) -> Vec<(usize, u32)> {
    let sum: u64 = shares.iter().map(|&(_, weight)| u64::from(weight)).sum();
    let too_many_bits = (64 - sum.leading_zeros()).saturating_sub(31);
    let scale = |&(place, weight): &(usize, u32)| (place, (weight >> too_many_bits).max(1));
    let used = shares.iter().filter(|share| share.1 > 0);
    let mut shares: Vec<_> = used.map(scale).collect();
    shares.sort_unstable();
    shares
}

/// A number in A, the same for every datagram of a flow.
///
/// Of a TCP connection only the first packet is dispatched, so that chance is as good there.
fn number(kind: Kind) -> &'static [Instruction] {
    const CHANCE: [Instruction; 1] = [op(LD_WORD, AD_RANDOM)];
    match kind {
        Kind::Tcp => &CHANCE,
        Kind::Udp => &FLOW_HASH,
    }
}

/// Chooses among members by their weights and by a number in A.
fn choose(shares: &[(usize, u32)]) -> Vec<Instruction> {
    let runs = Run::of(&scaled(shares));
    let mut left: u32 = runs.iter().map(Run::total).sum();
    if left == 0 {
        return vec![op(RET, TO_THE_HASH)];
    }
    let mut program = vec![op(MOD, left)];
    // From the upper end, so that the last that is reached takes the rest.
    for (at, run) in runs.iter().enumerate().rev() {
        left -= run.total();
        let choose = run.choose(left);
        if at > 0 {
            program.push(jump(JGE, left, 0, choose.len() as u8));
        }
        program.extend(choose);
    }
    program
}

/// Of every `sum` of the weights, each place gets its weight; a flow of datagrams stays together.
pub(super) fn weighted(kind: Kind, shares: &[(usize, u32)]) -> Vec<Instruction> {
    [number(kind), &choose(shares)].concat()
}

/// That part of everything goes to some, by their weights, and the rest by another program; of the flows of
/// datagrams, those move that a change of the part covers.
pub(super) fn split(
    kind: Kind,
    part: f64,
    some: &[(usize, u32)],
    rest: Vec<Instruction>,
) -> Vec<Instruction> {
    let least = f64::from(u8::from(part > 0.0));
    // It has so many of all numbers that stand in 32 bits.
    let numbers = (part * f64::from(u32::MAX)).round().max(least) as u32;
    let choice = choose(some);
    match numbers {
        0 => rest,
        u32::MAX => [number(kind), &choice].concat(),
        _ => {
            // A conditional jump goes no further than 255 instructions.
            let over = [jump(JGE, numbers, 0, 1), op(JA, choice.len() as u32)];
            [number(kind), &over, &choice, &rest].concat()
        }
    }
}

/// The same program, which leaves to another what it left to the hash.
pub(super) fn or_else(mut program: Vec<Instruction>, rest: &[Instruction]) -> Vec<Instruction> {
    let len = program.len();
    for (at, instruction) in program.iter_mut().enumerate() {
        if *instruction == op(RET, TO_THE_HASH) {
            *instruction = op(JA, (len - at - 1) as u32);
        }
    }
    program.extend(rest);
    program
}

/// What a processor handled goes to one of its members, and what another handled to the hash.
///
/// A member of weight 0 gets nothing.
pub(super) fn by_cpu(kind: Kind, places: &[(usize, (usize, u32))]) -> Vec<Instruction> {
    let mut of: BTreeMap<usize, Vec<(usize, u32)>> = BTreeMap::new();
    for &(cpu, share) in places.iter().filter(|(_, share)| share.1 > 0) {
        of.entry(cpu).or_default().push(share);
    }
    if of.values().all(|shares| shares.len() == 1) {
        let places = of.iter().map(|(&cpu, shares)| (cpu as u32, shares[0].0));
        let mut program = vec![op(LD_WORD, AD_CPU)];
        program.extend(look_up(places));
        return program;
    }
    let mut program = [number(kind), &[op(ST, 1), op(LD_WORD, AD_CPU)]].concat();
    for (cpu, shares) in of {
        let mut choice = vec![op(LD_MEM, 1)];
        choice.extend(choose(&shares));
        program.push(jump(JEQ, cpu as u32, 1, 0));
        // A conditional jump goes no further than 255 instructions.
        program.push(op(JA, choice.len() as u32));
        program.extend(choice);
    }
    program.push(op(RET, TO_THE_HASH));
    program
}

/// Chooses by a flow's hash: `owners` has the place of each slot, of which there is a power of two.
pub(super) fn by_slot(owners: &[usize]) -> Vec<Instruction> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for (slot, place) in (0..).zip(owners.iter().map(|place| *place as u32)) {
        if runs.last().is_none_or(|last| last.1 != place) {
            runs.push((slot, place));
        }
    }
    let mask = owners.len().saturating_sub(1) as u32;
    [&FLOW_HASH[..], &[op(AND, mask)], &search(&runs)].concat()
}

/// For so many slots there is room beside that many instructions, and those of [`split`].
pub(super) fn slots_beside(instructions: usize) -> usize {
    (LONGEST - FLOW_HASH.len()).saturating_sub(instructions) * 2 / 5
}

/// Halves the runs until one is left: each has its first number, and what is returned for it.
fn search(runs: &[(u32, u32)]) -> Vec<Instruction> {
    let (lower, upper) = runs.split_at(runs.len() / 2);
    let middle = match (lower, upper) {
        (_, []) => return vec![op(RET, TO_THE_HASH)],
        ([], [(_, place), ..]) => return vec![op(RET, *place)],
        (_, [(first, _), ..]) => *first,
    };
    let (lower, upper) = (search(lower), search(upper));
    let over = match u8::try_from(lower.len()) {
        Ok(len) => vec![jump(JGE, middle, len, 0)],
        // A conditional jump goes no further than 255 instructions.
        Err(_) => vec![jump(JGE, middle, 0, 1), op(JA, lower.len() as u32)],
    };
    [over, lower, upper].concat()
}

/// Looks the number in A up among ascending numbers, and leaves to the hash what is not there.
fn look_up(places: impl IntoIterator<Item = (u32, usize)>) -> Vec<Instruction> {
    // Numbers and places that count up together: first number, its place, how many.
    let mut runs: Vec<(u32, u32, u32)> = Vec::new();
    for (number, place) in places {
        let place = place as u32;
        match runs.last_mut() {
            Some((first, at, count)) if number - *first == *count && place == *at + *count => {
                *count += 1;
            }
            _ => runs.push((number, place, 1)),
        }
    }
    let mut program = Vec::with_capacity(4 * runs.len() + 1);
    for (first, place, count) in runs {
        if count == 1 {
            program.push(jump(JEQ, first, 0, 1));
            program.push(op(RET, place));
            continue;
        }
        program.push(jump(JGE, first + count, 3, 0));
        program.push(jump(JGE, first, 0, 2));
        // It wraps where the place is less than the number, as the kernel's addition does.
        program.push(op(ADD, place.wrapping_sub(first)));
        program.push(op(RET_A, 0));
    }
    program.push(op(RET, TO_THE_HASH));
    program
}

/// Where the number of a member stands in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// So many bytes behind the beginning.
    At(u32),
    /// So many bytes into a QUIC connection id that the server gave out (RFC 9000, section 17).
    Quic(u32),
}

/// Datagrams go to the index that stands beside their number; without one that is known, to the
/// hash.
pub(super) fn by_number(
    layout: Layout,
    two_bytes: bool,
    places: &[(u32, usize)],
) -> Vec<Instruction> {
    let (load, width) = if two_bytes {
        (LD_HALF, 2)
    } else {
        (LD_BYTE, 1)
    };
    let unless = |code, k| [jump(code, k, 1, 0), op(RET, TO_THE_HASH)];
    let mut program = vec![op(LD_LEN, 0)];
    match layout {
        Layout::At(at) => {
            program.extend(unless(JGE, at + width));
            program.push(op(load, at));
        }
        Layout::Quic(at) => {
            /// QUIC version 2 numbers the packet types otherwise (RFC 9369, section 3.2).
            const VERSION_2: u32 = 0x6b33_43cf;
            program.extend(unless(JGE, 1 + at + width));
            program.push(op(LD_BYTE, 0));
            program.push(jump(JSET, 0x80, 0, 17));
            // A long header: the id has a length, and the client chose it in Initial and 0-RTT.
            program.push(op(LD_LEN, 0));
            program.extend(unless(JGE, 6 + at + width));
            program.push(op(LD_WORD, 1));
            program.push(jump(JEQ, VERSION_2, 0, 3));
            program.extend([op(LD_BYTE, 0), op(AND, 0x30), jump(JEQ, 0x30, 4, 3)]);
            program.extend([op(LD_BYTE, 0), op(AND, 0x30), jump(JEQ, 0x20, 1, 0)]);
            program.push(op(RET, TO_THE_HASH));
            program.push(op(LD_BYTE, 5));
            program.extend(unless(JGE, at + width));
            program.push(op(load, 6 + at));
            program.push(op(JA, 1));
            // A short header: the id stands at once.
            program.push(op(load, 1 + at));
        }
    }
    let mut places = places.to_vec();
    places.sort_unstable();
    program.extend(look_up(places));
    program
}

#[cfg(test)]
mod tests;
