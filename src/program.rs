//! The classic BPF programs by which a group is steered.
//!
//! A program returns the index of the member that gets a connection or datagram. An index that no
//! member has leaves the choice to the kernel's hash, and a load past the end of a datagram returns
//! 0, so every load is preceded by a look at the length (kernel: reuseport_select_sock,
//! bpf_prog_run_clear_cb).

use std::collections::BTreeMap;

use crate::Instruction;
use crate::sys::Kind;

/// The most instructions that the kernel takes (BPF_MAXINSNS).
pub(crate) const LONGEST: usize = 4096;

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

/// Of every `sum` of the weights, each index gets its weight; a flow of datagrams stays together.
///
/// Only a TCP connection's first packet is dispatched, so that chance is as good there.
pub(crate) fn weighted(kind: Kind, shares: &[(usize, u32)]) -> Vec<Instruction> {
    let mut program = match kind {
        Kind::Tcp => vec![op(LD_WORD, AD_RANDOM)],
        Kind::Udp => FLOW_HASH.to_vec(),
    };
    let sum: u64 = shares.iter().map(|&(_, weight)| u64::from(weight)).sum();
    // The kernel counts with 32 bits; one is left for weights that are rounded up.
    let too_many_bits = (64 - sum.leading_zeros()).saturating_sub(31);
    let shares: Vec<_> = shares
        .iter()
        .filter(|share| share.1 > 0)
        .map(|&(index, weight)| (index, (weight >> too_many_bits).max(1)))
        .collect();
    let mut left: u32 = shares.iter().map(|share| share.1).sum();
    program.push(op(MOD, left));
    // From the upper end, so that the last that is reached takes the rest.
    for (at, &(index, weight)) in shares.iter().enumerate().rev() {
        left -= weight;
        if at > 0 {
            program.push(jump(JGE, left, 0, 1));
        }
        program.push(op(RET, index as u32));
    }
    program
}

/// Everything to one index.
pub(crate) fn only(index: usize) -> Vec<Instruction> {
    vec![op(RET, index as u32)]
}

/// The same program, which leaves to another what it left to the hash.
pub(crate) fn or_else(mut program: Vec<Instruction>, rest: &[Instruction]) -> Vec<Instruction> {
    let len = program.len();
    for (at, instruction) in program.iter_mut().enumerate() {
        if *instruction == op(RET, TO_THE_HASH) {
            *instruction = op(JA, (len - at - 1) as u32);
        }
    }
    program.extend(rest);
    program
}

/// What a processor handled goes to one of its indices, and what another handled to the hash.
pub(crate) fn by_cpu(kind: Kind, indices: &[(usize, usize)]) -> Vec<Instruction> {
    let mut of: BTreeMap<usize, Vec<(usize, u32)>> = BTreeMap::new();
    for &(cpu, index) in indices {
        of.entry(cpu).or_default().push((index, 1));
    }
    let mut program = vec![op(LD_WORD, AD_CPU)];
    for (cpu, shares) in of {
        let choice = match shares[..] {
            [(index, _)] => vec![op(RET, index as u32)],
            _ => weighted(kind, &shares),
        };
        // A conditional jump goes no further than 255 instructions.
        program.push(jump(JEQ, cpu as u32, 1, 0));
        program.push(op(JA, choice.len() as u32));
        program.extend(choice);
    }
    program.push(op(RET, TO_THE_HASH));
    program
}

/// Where the number of a member stands in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// So many bytes behind the beginning.
    At(u32),
    /// So many bytes into a QUIC connection id that the server gave out (RFC 9000, section 17).
    Quic(u32),
}

/// Datagrams go to the index that stands beside their number; without one that is known, to the
/// hash.
pub(crate) fn by_number(
    layout: Layout,
    two_bytes: bool,
    indices: &[(u32, usize)],
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
    program.extend(table(indices));
    program
}

/// Looks A up among keys, and leaves to the hash what is not there.
fn table(entries: &[(u32, usize)]) -> impl Iterator<Item = Instruction> {
    entries
        .iter()
        .flat_map(|&(key, index)| [jump(JEQ, key, 0, 1), op(RET, index as u32)])
        .chain([op(RET, TO_THE_HASH)])
}
