//! A program of type SK_REUSEPORT that chooses a member by the loads as they are, and its memory: an array that
//! the members' workers write into, and the sockets among which it chooses.
//!
//! CAP_BPF is what loading it takes. The map of sockets keeps none open: a socket leaves it when it is closed
//! (kernel: bpf_sk_reuseport_detach). All descriptors of bpf(2) are close-on-exec.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::choice::{self, Op};
use crate::sys::slot::Slot;
use crate::sys::unix::check;

pub(super) const LOTS: usize = 4096;
pub(super) const SLOTS: usize = 1024;

/// The only value of the array.
#[repr(C)]
pub(super) struct Shared {
    /// How many of the seats are taken.
    pub(super) count: AtomicU32,
    /// The slots from which the first choices are drawn, each as often as its share is.
    pub(super) lots: [AtomicU32; LOTS],
    /// The slots of all that get something.
    pub(super) seats: [AtomicU32; SLOTS],
    pub(super) slots: [Slot; SLOTS],
}

#[derive(Debug)]
pub(crate) struct Board {
    memory: NonNull<Shared>,
    sockets: OwnedFd,
    program: OwnedFd,
}

// SAFETY: the memory is of atomics alone, and stays mapped as long as the board is there.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

// linux/bpf.h.
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const ARRAY: u32 = 2;
const REUSEPORT_SOCKARRAY: u32 = 20;
const SK_REUSEPORT: u32 = 21;
const MMAPABLE: u32 = 1 << 10;

/// The start of union bpf_attr for BPF_MAP_CREATE; what is left out is 0.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// The same for an element of a map; a deletion has neither value nor flags.
#[repr(C, align(8))]
struct Element {
    map: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The same for BPF_PROG_LOAD.
#[repr(C, align(8))]
struct ProgLoad {
    kind: u32,
    count: u32,
    ops: u64,
    license: u64,
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    let attributes = ptr::from_ref(attributes);
    // SAFETY: the pointer and the size are those of `attributes`, which the kernel only reads for these
    // commands; what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    check(result as libc::c_int)
}

fn open<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the kernel just made this descriptor, and no other code knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address<T: ?Sized>(of: &T) -> u64 {
    ptr::from_ref(of).cast::<()>() as usize as u64
}

impl Board {
    pub(crate) const SLOTS: usize = SLOTS;

    /// Fails where the process may not, and before Linux 5.5.
    pub(crate) fn open() -> io::Result<Self> {
        if !may_load() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let loads = open(
            MAP_CREATE,
            &MapCreate {
                kind: ARRAY,
                key_size: 4,
                value_size: size_of::<Shared>() as u32,
                max_entries: 1,
                flags: MMAPABLE,
            },
        )?;
        let sockets = open(
            MAP_CREATE,
            &MapCreate {
                kind: REUSEPORT_SOCKARRAY,
                key_size: 4,
                value_size: 4,
                max_entries: SLOTS as u32,
                flags: 0,
            },
        )?;
        let ops = choice::program(loads.as_raw_fd(), sockets.as_raw_fd());
        let program = load(&ops)?;
        // The program and the mapping keep the array.
        let memory = map(loads.as_fd())?;
        Ok(Self {
            memory,
            sockets,
            program,
        })
    }

    fn shared(&self) -> &Shared {
        // SAFETY: it is mapped until this is dropped, and of atomics alone.
        unsafe { self.memory.as_ref() }
    }

    pub(crate) fn slot(&self, at: usize) -> &Slot {
        &self.shared().slots[at]
    }

    /// From here on the socket can be chosen by its slot.
    pub(crate) fn seat(&self, at: usize, socket: BorrowedFd<'_>) -> io::Result<()> {
        let (key, value) = (at as u32, socket.as_raw_fd());
        let element = self.element(&key, address(&value));
        bpf(MAP_UPDATE_ELEM, &element).map(drop)
    }

    /// Nothing is chosen by the slot. What was closed is not there any more.
    pub(crate) fn unseat(&self, at: usize) {
        let key = at as u32;
        let _ = bpf(MAP_DELETE_ELEM, &self.element(&key, 0));
    }

    fn element(&self, key: &u32, value: u64) -> Element {
        Element {
            map: self.sockets.as_raw_fd() as u32,
            zero: 0,
            key: address(key),
            value,
            flags: 0,
        }
    }

    /// What each slot is to get, beside the others; those that are behind get nothing.
    pub(crate) fn share(&self, shares: &[u32]) {
        let shared = self.shared();
        for (slot, share) in shared.slots.iter().zip(shares) {
            slot.share.store(*share, Relaxed);
        }
        for (place, slot) in shared.lots.iter().zip(lots(shares)) {
            place.store(slot, Relaxed);
        }
        let mut count = 0;
        for ((slot, _), seat) in able(shares).zip(&shared.seats) {
            seat.store(slot, Relaxed);
            count += 1;
        }
        shared.count.store(count, Relaxed);
    }

    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// The slots that get something, each with its share.
fn able(shares: &[u32]) -> impl Iterator<Item = (u32, u32)> {
    let all = (0..).zip(shares.iter().copied());
    all.filter(|(_, share)| *share > 0)
}

/// One lot for each slot that gets something, and the others by their shares.
fn lots(shares: &[u32]) -> Vec<u32> {
    let sum: u64 = able(shares).map(|(_, share)| u64::from(share)).sum();
    let spare = LOTS.saturating_sub(able(shares).count()) as u64;
    let mut lots = Vec::with_capacity(LOTS);
    let mut before = 0;
    for (slot, share) in able(shares) {
        let from = before * spare / sum;
        before += u64::from(share);
        let more = before * spare / sum - from;
        lots.extend((0..=more).map(|_| slot));
    }
    lots
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: these are the address and the size that mmap mapped, and nothing refers to it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), size_of::<Shared>()) };
    }
}

/// Whether this thread has CAP_BPF, or what stood for it before Linux 5.8.
///
/// A filter of system calls may kill a process that calls bpf(2), so one that would be refused does not call it.
fn may_load() -> bool {
    const VERSION: u32 = 0x2008_0522;
    const ANY: [usize; 2] = [21, 39];
    let header = [VERSION, 0];
    // The effective, permitted and inheritable ones, 32 at a time.
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: capget reads the header of two words, and writes the two sets that this version has.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    result == 0
        && ANY
            .iter()
            .any(|cap| sets[cap / 32][0] & 1 << (cap % 32) != 0)
}

fn load(ops: &[Op]) -> io::Result<OwnedFd> {
    open(
        PROG_LOAD,
        &ProgLoad {
            kind: SK_REUSEPORT,
            count: ops.len() as u32,
            ops: address(ops),
            license: address(c"MIT OR Apache-2.0"),
        },
    )
}

fn map(array: BorrowedFd<'_>) -> io::Result<NonNull<Shared>> {
    const { assert!(mem::align_of::<Shared>() <= 4096) };
    // SAFETY: no address is asked for, so that nothing is replaced.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<Shared>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            array.as_raw_fd(),
            0,
        )
    };
    match NonNull::new(memory.cast()) {
        Some(shared) if memory != libc::MAP_FAILED => Ok(shared),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::slot::MOST;

    #[test]
    fn each_has_a_lot_and_the_others_go_by_the_shares() {
        let count = |lots: &[u32], slot| lots.iter().filter(|lot| **lot == slot).count();
        for shares in [
            vec![MOST],
            vec![1, 0, 3],
            vec![MOST, 1, MOST / 2, 0],
            vec![MOST; SLOTS],
            (1..=SLOTS as u32).collect(),
        ] {
            let lots = lots(&shares);
            assert_eq!(lots.len(), LOTS);
            let able = shares.iter().filter(|share| **share > 0).count();
            let sum: f64 = shares.iter().copied().map(f64::from).sum();
            for (slot, share) in (0..).zip(&shares) {
                let expected = match share {
                    0 => 0.0,
                    _ => 1.0 + f64::from(*share) / sum * (LOTS - able) as f64,
                };
                let got = count(&lots, slot) as f64;
                assert!((got - expected).abs() <= 1.0, "{got}, {expected}");
            }
        }
        assert!(lots(&[0, 0]).is_empty() && lots(&[]).is_empty());
    }

    #[test]
    fn the_kernel_takes_the_program_where_the_process_may_load_one() {
        match Board::open() {
            Ok(board) => {
                let slot = board.slot(SLOTS - 1);
                slot.held.store(7, Relaxed);
                assert_eq!(board.slot(SLOTS - 1).held.load(Relaxed), 7);
                assert_eq!(board.slot(0).held.load(Relaxed), 0);
            }
            Err(error) => assert!(!may_load(), "{error}"),
        }
    }
}
