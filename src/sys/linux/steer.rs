//! Tells the kernel how to choose a member: by a program for the group.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::sys::unix::{check, set_option};
use crate::sys::{Dispatch, Instruction};

/// `ret #-1`: no member has this index, so the kernel's hash decides as it would without a program.
pub(super) const TO_THE_HASH: Instruction = Instruction {
    code: 0x06,
    jt: 0,
    jf: 0,
    k: u32::MAX,
};

/// Puts a program in the place of the one that the group of `fd` has.
pub(super) fn attach(fd: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    const {
        assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());
        assert!(align_of::<Instruction>() == align_of::<libc::sock_filter>());
    }
    let len = program
        .len()
        .try_into()
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    // An Instruction has the fields of a sock_filter in its order, and the kernel only reads them.
    let filter = program.as_ptr().cast_mut().cast();
    let program = libc::sock_fprog { len, filter };
    set_option(
        fd,
        libc::SOL_SOCKET,
        libc::SO_ATTACH_REUSEPORT_CBPF,
        &program,
    )
}

/// Takes the program off, so that the hash decides.
pub(super) fn detach(fd: BorrowedFd<'_>) -> io::Result<()> {
    match set_option(fd, libc::SOL_SOCKET, libc::SO_DETACH_REUSEPORT_BPF, &0i32) {
        // ENOENT: there is none. EOPNOTSUPP: MPTCP takes none.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {
            Ok(())
        }
        // ENOPROTOOPT: before 5.3 a program could not be taken off, but replaced.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => attach(fd, &[TO_THE_HASH]),
        done => done,
    }
}

pub(super) fn dispatch(fd: BorrowedFd<'_>, dispatch: &Dispatch<'_>) -> io::Result<()> {
    match dispatch {
        Dispatch::Hash => detach(fd),
        Dispatch::Program(program) => attach(fd, program),
        Dispatch::Ebpf(program) => {
            let program = program.as_raw_fd();
            set_option(
                fd,
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_EBPF,
                &program,
            )
        }
    }
}

/// socket(7), and kernel: reuseport_attach_prog, sk_reuseport_attach_filter.
pub(crate) fn dispatch_reason(error: &io::Error) -> Option<&'static str> {
    Some(match error.raw_os_error()? {
        libc::EINVAL => "the kernel refuses the program, or the socket shares no port",
        libc::ENOMEM => "the program is longer than net.core.optmem_max allows",
        libc::EOPNOTSUPP => "sockets of this protocol take no program, as MPTCP's",
        libc::EPERM => "the socket is locked against programs (SO_LOCK_FILTER)",
        _ => return None,
    })
}

/// sched_getaffinity(2), in the order in which others number processors too.
pub(crate) fn cpus() -> Vec<usize> {
    // SAFETY: a cpu_set_t is plain data, for which zeros are valid.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the pointer and the length are those of `set`; 0 is the calling thread.
    let result = unsafe { libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set) };
    match check(result) {
        // SAFETY: `set` is initialized, and the numbers are below its size.
        Ok(_) => (0..8 * mem::size_of_val(&set))
            .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
            .collect(),
        // A machine with more processors than the set has places.
        Err(_) => (0..std::thread::available_parallelism().map_or(1, Into::into)).collect(),
    }
}
