//! The filter of a socket, which drops what it does not let through (socket(7), SO_ATTACH_FILTER).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::sys::Instruction;
use crate::sys::unix::{check, set_option};

/// <asm-generic/socket.h>: it reads what this sets.
const SO_GET_FILTER: libc::c_int = libc::SO_ATTACH_FILTER;

#[derive(Clone, Debug)]
pub(super) enum Filter {
    None,
    Classic(Vec<Instruction>),
    /// An eBPF program, which cannot be read (kernel: sk_get_filter).
    Ebpf,
}

impl Filter {
    pub(super) fn of(fd: BorrowedFd<'_>) -> Self {
        let none = Instruction {
            code: 0,
            jt: 0,
            jf: 0,
            k: 0,
        };
        match read(fd, &mut []) {
            Ok(0) => Self::None,
            Ok(len) => {
                let mut program = vec![none; len];
                match read(fd, &mut program) {
                    Ok(read) if read == len => Self::Classic(program),
                    Ok(_) | Err(_) => Self::None,
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => Self::Ebpf,
            // gVisor knows no filters.
            Err(_) => Self::None,
        }
    }

    pub(super) fn give(&self, to: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Classic(program) => {
                let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
                // An Instruction has the fields of a sock_filter in its order, and the kernel only
                // reads them.
                let filter = program.as_ptr().cast_mut().cast();
                let program = libc::sock_fprog { len, filter };
                set_option(to, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
            }
            Self::Ebpf => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "an eBPF program cannot be read from a socket",
            )),
        }
    }
}

/// The number of instructions; it is counted in them too, and 0 asks for nothing else.
fn read(fd: BorrowedFd<'_>, program: &mut [Instruction]) -> io::Result<usize> {
    let mut len =
        libc::socklen_t::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let into = match program.is_empty() {
        true => ptr::null_mut(),
        false => program.as_mut_ptr().cast(),
    };
    // SAFETY: the kernel writes at most `len` instructions to the pointer, which is to as many, and
    // any bytes are a valid one.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_GET_FILTER,
            into,
            &mut len,
        )
    };
    check(result).map(|_| len as usize)
}
