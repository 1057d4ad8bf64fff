//! The memory of one member's load, which another process can have too: a file of its own (memfd_create(2)).
//!
//! It is sealed before another process has it, so that no process can make it shorter: a page that is mapped, and that its
//! file does not have any more, is SIGBUS for the process that touches it. What another process brings is looked at for
//! the same seal before it is mapped; after that only its length can tell what it is, as all that is in it may
//! have been written by any process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use crate::sys::slot::Slot;
use crate::sys::unix::{check, stat};

/// As long as no file of another layout is: that of a process with other words has another length.
const LENGTH: usize = size_of::<Slot>() + size_of::<usize>();

const _: () = assert!(LENGTH <= 4096 && align_of::<Slot>() <= 4096);

#[derive(Debug)]
pub(crate) struct Page(NonNull<Slot>);

// SAFETY: the memory is of atomics alone, and stays mapped as long as the page is there.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// A new one, with the descriptor that is to be passed on; close-on-exec.
    pub(crate) fn open() -> io::Result<(Self, OwnedFd)> {
        // Only from Linux 6.3 on there is the second, which an administrator may ask for (vm.memfd_noexec).
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        let made = create(flags | libc::MFD_NOEXEC_SEAL);
        let fd = match made {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => create(flags)?,
            made => made?,
        };
        // SAFETY: ftruncate takes a descriptor and a number, and touches no memory.
        check(unsafe { libc::ftruncate(fd.as_raw_fd(), LENGTH as libc::off_t) })?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: F_ADD_SEALS takes an int and touches no memory.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        Ok((map(fd.as_fd())?, fd))
    }

    /// One that another process has made.
    pub(crate) fn adopt(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        // SAFETY: F_GET_SEALS takes no argument and touches no memory.
        let seals = match check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) }) {
            Ok(seals) => seals,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let why = "it is no memory that was lent for a load, but another file or a socket";
                return Err(invalid(why.to_owned()));
            }
            Err(error) => return Err(error),
        };
        if seals & libc::F_SEAL_SHRINK == 0 {
            let why = "its memory is not sealed, so that it could be taken away while it is in use";
            return Err(invalid(why.to_owned()));
        }
        // It keeps this length at least, now that the seal was seen.
        let length = stat(fd.as_raw_fd())?.st_size;
        if usize::try_from(length) != Ok(LENGTH) {
            return Err(invalid(format!(
                "its memory has {length} bytes, and that of a load has {LENGTH} in this version"
            )));
        }
        map(fd)
    }

    pub(crate) fn slot(&self) -> &Slot {
        // SAFETY: it is mapped until this is dropped, cannot become shorter, and is of atomics alone, for which
        // any bits are valid.
        unsafe { self.0.as_ref() }
    }
}

/// The system call itself, which older C libraries do not have.
fn create(flags: libc::c_uint) -> io::Result<OwnedFd> {
    let name = c"reuseport-load";
    // SAFETY: the name is a string that ends with 0 and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) };
    let fd = check(fd as libc::c_int)?;
    // SAFETY: the kernel just made this descriptor, and no other code knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn map(fd: BorrowedFd<'_>) -> io::Result<Page> {
    // SAFETY: no address is asked for, so that nothing is replaced.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            LENGTH,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            0,
        )
    };
    match NonNull::new(memory.cast()) {
        Some(slot) if memory != libc::MAP_FAILED => Ok(Page(slot)),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: these are the address and the length that mmap mapped, and nothing refers to it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), LENGTH) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    fn refusal(fd: &impl AsFd) -> String {
        let error = Page::adopt(fd.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        error.to_string()
    }

    fn sealed(length: u64, seals: libc::c_int) -> File {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        let file = File::from(create(flags).unwrap());
        file.set_len(length).unwrap();
        // SAFETY: as above.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }).unwrap();
        file
    }

    #[test]
    fn two_have_the_same_memory_and_nobody_makes_it_shorter() {
        let (page, fd) = Page::open().unwrap();
        let other = Page::adopt(fd.as_fd()).unwrap();
        page.slot().taken.store(7, Relaxed);
        assert_eq!(other.slot().taken.load(Relaxed), 7);
        drop(page);
        assert_eq!(other.slot().taken.load(Relaxed), 7);
        let file = File::from(fd);
        for length in [0, LENGTH as u64 - 1, 1 << 20] {
            let error = file.set_len(length).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        }
    }

    #[test]
    fn what_is_no_such_memory_is_refused_before_it_is_mapped() {
        let null = File::open("/dev/null").unwrap();
        assert!(refusal(&null).starts_with("it is no memory that was lent"));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(refusal(&socket).starts_with("it is no memory that was lent"));
        let length = LENGTH as u64;
        for seals in [0, libc::F_SEAL_GROW, libc::F_SEAL_SEAL] {
            assert!(refusal(&sealed(length, seals)).starts_with("its memory is not sealed"));
        }
        for other in [0, length - 1, length + 1, 4096] {
            let refused = refusal(&sealed(other, libc::F_SEAL_SHRINK));
            let expected = format!("its memory has {other} bytes, and that of a load has {LENGTH}");
            assert!(refused.starts_with(&expected), "{refused}");
        }
        let only_read = sealed(length, libc::F_SEAL_SHRINK | libc::F_SEAL_WRITE);
        let error = Page::adopt(only_read.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}
