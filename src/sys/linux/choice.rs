//! The eBPF program that chooses a member for a connection: the less loaded of two that are drawn by their
//! shares, and if that one is busy, one that is idle.
//!
//! A member's *live* load is what it holds and, four times, what was given to it and not taken yet; the program
//! counts what it gives, so that each connection sees those that have come just before. The two are compared by
//! that and by what their workers have set. What is set may be old, and of two choices no member gets more than
//! twice its part, however old it is. So an idle one takes their place only if it has not set more.

use std::mem::offset_of;

use super::board::{LOTS, SLOTS, Shared};
use crate::sys::slot::{COUNT, Slot};

/// struct bpf_insn: `registers` has the destination in the half that comes first in a bit field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Op {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

// linux/bpf_common.h and linux/bpf.h.
const MOV: u8 = 0xb7;
const MOV_X: u8 = 0xbf;
const MOV32: u8 = 0xb4;
const MOV32_X: u8 = 0xbc;
const ADD: u8 = 0x07;
const ADD_X: u8 = 0x0f;
const SUB32_X: u8 = 0x1c;
const MUL_X: u8 = 0x2f;
const MOD_X: u8 = 0x9f;
const AND: u8 = 0x57;
const LSH: u8 = 0x67;
const RSH: u8 = 0x77;
const JA: u8 = 0x05;
const JEQ: u8 = 0x15;
const JNE: u8 = 0x55;
const JNE_X: u8 = 0x5d;
const JGE_X: u8 = 0x3d;
const JGT_X: u8 = 0x2d;
const LOAD_BYTE: u8 = 0x71;
const LOAD_WORD: u8 = 0x61;
const LOAD_LONG: u8 = 0x79;
const STORE_WORD: u8 = 0x63;
const STORE_LONG: u8 = 0x7b;
const ADD_ATOMICALLY: u8 = 0xc3;
const LOAD_IMMEDIATE: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

const MAP: u8 = 1;
const MAP_VALUE: u8 = 2;
const RANDOM: i32 = 7;
const SELECT: i32 = 82;
const PASS: i32 = 1;

/// Where struct sk_reuseport_md has the packet, which begins with the header of TCP, and the flags in that.
const PACKET: i16 = 0;
const PACKET_END: i16 = 8;
const FLAGS: i16 = 13;
const SYN: i32 = 0x02;
const ACK: i32 = 0x10;

/// A usize is what the workers store.
const LOAD_SET: u8 = if size_of::<usize>() == 8 {
    LOAD_LONG
} else {
    LOAD_WORD
};

/// The frame pointer, and what the program keeps below it.
const FRAME: u8 = 10;
const KEY: i16 = -4;
const CHANCE: i16 = -16;
const LIVE: i16 = -24;
const SCORE: i16 = -32;
const SET: i16 = -40;
const SHARE: i16 = -48;

/// How many are asked whether they are idle.
const ASKED: usize = 8;
/// How often another is drawn where the second choice is the first once more.
const DRAWN: i32 = 4;

/// The registers: the context, the shared memory, and the slot that is chosen.
const CONTEXT: u8 = 6;
const SHARED: u8 = 7;
const CHOSEN: u8 = 9;

#[derive(Default)]
struct Assembler {
    ops: Vec<Op>,
    /// Jumps whose label has no place yet.
    open: Vec<(usize, usize)>,
    labels: usize,
}

impl Assembler {
    fn op(&mut self, code: u8, to: u8, from: u8, offset: i16, value: i32) {
        let registers = match cfg!(target_endian = "little") {
            true => from << 4 | to,
            false => to << 4 | from,
        };
        self.ops.push(Op {
            code,
            registers,
            offset,
            value,
        });
    }

    fn set(&mut self, code: u8, to: u8, value: i32) {
        self.op(code, to, 0, 0, value);
    }

    fn calc(&mut self, code: u8, to: u8, from: u8) {
        self.op(code, to, from, 0, 0);
    }

    fn load(&mut self, code: u8, to: u8, from: u8, offset: i16) {
        self.op(code, to, from, offset, 0);
    }

    fn store(&mut self, code: u8, to: i16, from: u8) {
        self.op(code, FRAME, from, to, 0);
    }

    fn pointer(&mut self, to: u8, kind: u8, map: i32) {
        self.op(LOAD_IMMEDIATE, to, kind, 0, map);
        self.op(0, 0, 0, 0, 0);
    }

    fn label(&mut self) -> usize {
        self.labels += 1;
        self.labels
    }

    fn jump(&mut self, code: u8, one: u8, other: u8, value: i32, label: usize) {
        self.open.push((self.ops.len(), label));
        self.op(code, one, other, 0, value);
    }

    /// The label stands for what comes next.
    fn place(&mut self, label: usize) {
        let here = self.ops.len();
        let ops = &mut self.ops;
        self.open.retain(|&(at, of)| {
            if of == label {
                ops[at].offset = (here - at - 1) as i16;
            }
            of != label
        });
    }

    /// The slot of the lot with that number, which is used up.
    fn draw(&mut self, to: u8, number: u8) {
        self.element(to, number, LOTS, offset_of!(Shared, lots));
    }

    fn element(&mut self, to: u8, number: u8, len: usize, array: usize) {
        self.set(AND, number, len as i32 - 1);
        self.set(LSH, number, 2);
        self.calc(ADD_X, number, SHARED);
        self.load(LOAD_WORD, to, number, 0);
        self.ops
            .last_mut()
            .into_iter()
            .for_each(|op| op.offset = array as i16);
        self.set(AND, to, SLOTS as i32 - 1);
    }

    /// A pointer into the slot: fields are behind [`field`].
    fn slot(&mut self, to: u8, number: u8) {
        self.calc(MOV_X, to, number);
        self.set(LSH, to, size_of::<Slot>().trailing_zeros() as i32);
        self.calc(ADD_X, to, SHARED);
    }

    /// What wrapped below 0 is 0.
    fn floor(&mut self, of: u8, spare: u8) {
        let over = self.label();
        self.calc(MOV_X, spare, of);
        self.set(RSH, spare, 31);
        self.jump(JEQ, spare, 0, 0, over);
        self.set(MOV, of, 0);
        self.place(over);
    }

    /// Of the slot with that number: a pointer in 1, the live load in 2, all of the load in 4, and what was set
    /// in 5.
    fn look(&mut self, number: u8) {
        self.slot(1, number);
        self.load(LOAD_WORD, 2, 1, field(offset_of!(Slot, given)));
        for less in [offset_of!(Slot, taken), offset_of!(Slot, base)] {
            self.load(LOAD_WORD, 5, 1, field(less));
            self.calc(SUB32_X, 2, 5);
        }
        self.floor(2, 4);
        // What is not taken yet is not served at all.
        self.set(LSH, 2, 2);
        self.load(LOAD_WORD, 5, 1, field(offset_of!(Slot, held)));
        self.set(AND, 5, COUNT as i32);
        self.calc(ADD_X, 2, 5);
        // No more than 32 bits, so that it can be multiplied.
        self.load(LOAD_SET, 5, 1, field(offset_of!(Slot, set)));
        let fits = self.label();
        self.calc(MOV_X, 4, 5);
        self.set(RSH, 4, 32);
        self.jump(JEQ, 4, 0, 0, fits);
        self.set(MOV32, 5, -1);
        self.place(fits);
        self.calc(MOV_X, 4, 5);
        self.calc(ADD_X, 4, 2);
    }
}

const fn field(offset: usize) -> i16 {
    let at = offset_of!(Shared, slots) + offset;
    assert!(at <= i16::MAX as usize);
    at as i16
}

pub(super) fn program(loads: i32, sockets: i32) -> Vec<Op> {
    let mut asm = Assembler::default();
    asm.calc(MOV_X, CONTEXT, 1);
    asm.set(CALL, 0, RANDOM);
    asm.calc(MOV32_X, 8, 0);
    asm.set(CALL, 0, RANDOM);
    asm.calc(MOV32_X, 0, 0);
    asm.store(STORE_LONG, CHANCE, 0);
    asm.pointer(SHARED, MAP_VALUE, loads);

    // The first choice, and another.
    asm.draw(CHOSEN, 8);
    let other = asm.label();
    for drawn in 0..DRAWN {
        asm.calc(MOV_X, 2, 0);
        asm.set(ADD, 2, drawn * (LOTS as i32 / DRAWN + 7));
        asm.draw(3, 2);
        asm.jump(JNE_X, 3, CHOSEN, 0, other);
    }
    asm.place(other);

    asm.look(CHOSEN);
    asm.store(STORE_LONG, LIVE, 2);
    asm.store(STORE_LONG, SCORE, 4);
    asm.store(STORE_LONG, SET, 5);
    asm.load(LOAD_WORD, 1, 1, field(offset_of!(Slot, share)));
    asm.store(STORE_LONG, SHARE, 1);

    // The second is less loaded, each beside its share.
    let keep = asm.label();
    asm.look(3);
    asm.load(LOAD_WORD, 1, 1, field(offset_of!(Slot, share)));
    asm.jump(JEQ, 1, 0, 0, keep);
    asm.load(LOAD_LONG, 0, FRAME, SHARE);
    asm.calc(MUL_X, 0, 4);
    asm.load(LOAD_LONG, 8, FRAME, SCORE);
    asm.calc(MUL_X, 8, 1);
    asm.jump(JGE_X, 0, 8, 0, keep);
    asm.calc(MOV_X, CHOSEN, 3);
    asm.store(STORE_LONG, LIVE, 2);
    asm.store(STORE_LONG, SET, 5);
    asm.place(keep);

    // It is busy, and another is idle and has not set more.
    let done = asm.label();
    asm.load(LOAD_LONG, 2, FRAME, LIVE);
    asm.jump(JEQ, 2, 0, 0, done);
    asm.load(LOAD_WORD, 3, SHARED, offset_of!(Shared, count) as i16);
    asm.jump(JEQ, 3, 0, 0, done);
    asm.load(LOAD_LONG, 8, FRAME, CHANCE);
    asm.set(RSH, 8, 16);
    asm.calc(MOD_X, 8, 3);
    for _ in 0..ASKED {
        let [next, inside] = [asm.label(), asm.label()];
        asm.calc(MOV_X, 1, 8);
        asm.element(0, 1, SLOTS, offset_of!(Shared, seats));
        asm.set(ADD, 8, 1);
        asm.jump(JGT_X, 3, 8, 0, inside);
        asm.set(MOV, 8, 0);
        asm.place(inside);
        asm.look(0);
        asm.jump(JNE, 2, 0, 0, next);
        asm.load(LOAD_WORD, 1, 1, field(offset_of!(Slot, share)));
        asm.jump(JEQ, 1, 0, 0, next);
        asm.load(LOAD_LONG, 1, FRAME, SET);
        asm.jump(JGT_X, 5, 1, 0, next);
        asm.calc(MOV_X, CHOSEN, 0);
        asm.jump(JA, 0, 0, 0, done);
        asm.place(next);
    }
    asm.place(done);

    // What is no SYN begins no connection: it came late for one that has ended, or ends a handshake of SYN cookies,
    // which was counted when it began.
    let select = asm.label();
    asm.load(LOAD_LONG, 1, CONTEXT, PACKET);
    asm.load(LOAD_LONG, 2, CONTEXT, PACKET_END);
    asm.calc(MOV_X, 3, 1);
    asm.set(ADD, 3, i32::from(FLAGS) + 1);
    asm.jump(JGT_X, 3, 2, 0, select);
    asm.load(LOAD_BYTE, 1, 1, FLAGS);
    asm.set(AND, 1, SYN | ACK);
    asm.jump(JNE, 1, 0, SYN, select);
    asm.slot(1, CHOSEN);
    asm.set(MOV, 2, 1);
    asm.op(ADD_ATOMICALLY, 1, 2, field(offset_of!(Slot, given)), 0);
    asm.place(select);
    asm.store(STORE_WORD, KEY, CHOSEN);
    asm.calc(MOV_X, 1, CONTEXT);
    asm.pointer(2, MAP, sockets);
    asm.calc(MOV_X, 3, FRAME);
    asm.set(ADD, 3, KEY.into());
    asm.set(MOV, 4, 0);
    // Where it has been closed the hash decides, as where a classic program names a place that is empty.
    asm.set(CALL, 0, SELECT);
    asm.set(MOV, 0, PASS);
    asm.set(EXIT, 0, 0);
    asm.ops
}
