//! A socket that somebody else owns, by the number of its descriptor and its identity.
//!
//! A duplicate would keep the socket in its group after its owner closed it. This keeps nothing
//! open, and is asked whether the number still stands for the socket.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::sys::unix::check;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weak {
    number: RawFd,
    device: libc::dev_t,
    inode: libc::ino_t,
}

impl Weak {
    pub(crate) fn new(fd: BorrowedFd<'_>) -> Option<Self> {
        Self::look(fd.as_raw_fd()).ok()
    }

    /// fstat(2), which does no harm to a number that stands for something else by now.
    fn look(number: RawFd) -> io::Result<Self> {
        let mut stat = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the pointer is to room for one stat, which the kernel fills.
        check(unsafe { libc::fstat(number, stat.as_mut_ptr()) })?;
        // SAFETY: fstat succeeded, so the kernel has filled it.
        let stat = unsafe { stat.assume_init() };
        Ok(Self {
            number,
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    /// Has its owner not closed it?
    pub(crate) fn is_open(&self) -> bool {
        Self::look(self.number).is_ok_and(|now| now == *self)
    }

    /// Another descriptor of the socket; None where its owner has closed it.
    pub(crate) fn upgrade(&self) -> Option<OwnedFd> {
        if !self.is_open() {
            return None;
        }
        // SAFETY: F_DUPFD_CLOEXEC takes an int and touches no memory.
        let fd = check(unsafe { libc::fcntl(self.number, libc::F_DUPFD_CLOEXEC, 0) }).ok()?;
        // SAFETY: the kernel just made this descriptor, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // The owner may have closed it, and another thread opened something, since the first look.
        let now = Self::look(fd.as_raw_fd()).ok()?;
        (now.device == self.device && now.inode == self.inode).then_some(fd)
    }

    /// As /proc/net names it.
    pub(crate) fn inode(&self) -> u64 {
        #[allow(clippy::unnecessary_cast, reason = "ino_t has 32 bits on some systems")]
        {
            self.inode as u64
        }
    }
}
