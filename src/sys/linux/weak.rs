//! A socket that another part of the program owns, by the number of a descriptor and its inode.
//!
//! A duplicate would keep the socket in its group after its owner closed it. This keeps nothing
//! open, and asks the kernel whether the number still stands for the socket.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::queue;
use crate::sys::unix::{check, stat};

#[derive(Clone, Debug)]
pub(crate) struct Weak {
    number: RawFd,
    file: File,
}

/// poll(2) without waiting: how many of these have something to tell.
pub(super) fn poll(entries: &mut [libc::pollfd]) -> io::Result<usize> {
    // SAFETY: the pointer and the count are those of `entries`, which outlives the call.
    let ready = check(unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as _, 0) })?;
    Ok(ready as usize)
}

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct File {
    device: libc::dev_t,
    inode: libc::ino_t,
}

impl File {
    /// None where the number stands for nothing.
    fn at(number: RawFd) -> io::Result<Option<Self>> {
        let stat = match stat(number) {
            Ok(stat) => stat,
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        }))
    }
}

/// What the descriptors of this process stand for.
#[derive(Debug)]
pub(crate) struct Descriptors(HashMap<File, Vec<RawFd>>);

impl Descriptors {
    /// Looks at each once.
    pub(crate) fn look() -> io::Result<Self> {
        let mut all = HashMap::<File, Vec<RawFd>>::new();
        for number in open_numbers()? {
            if let Ok(Some(file)) = File::at(number) {
                all.entry(file).or_default().push(number);
            }
        }
        Ok(Self(all))
    }
}

/// The numbers of all descriptors, and where that cannot be read all that can be one.
fn open_numbers() -> io::Result<Vec<RawFd>> {
    // The directory takes a descriptor, of which there may be none left.
    match fs::read_dir("/proc/thread-self/fd") {
        Ok(entries) => {
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            Ok(names.filter_map(|name| name.parse().ok()).collect())
        }
        Err(_) => numbers().map(|end| (0..end).collect()),
    }
}

impl Weak {
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let number = fd.as_raw_fd();
        match File::at(number)? {
            Some(file) => Ok(Self { number, file }),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// As /proc/net and sock_diag(7) name it.
    pub(crate) fn inode(&self) -> u64 {
        #[allow(clippy::unnecessary_cast, reason = "ino_t has 32 bits on some systems")]
        {
            self.file.inode as u64
        }
    }

    /// Whether the number still stands for the socket.
    pub(crate) fn is_open(&self) -> bool {
        matches!(File::at(self.number), Ok(Some(file)) if file == self.file)
    }

    /// For [`poll`], which is to tell of what waits, and of what no listener is.
    pub(super) fn to_poll(&self) -> libc::pollfd {
        libc::pollfd {
            fd: self.number,
            events: libc::POLLIN | libc::POLLOUT,
            revents: 0,
        }
    }

    /// How many connections wait in the listener.
    pub(super) fn queued(&self) -> io::Result<u32> {
        // SAFETY: the number may stand for nothing, or for something else by now, and is only asked: both are
        // errors or show in the answer.
        let fd = unsafe { BorrowedFd::borrow_raw(self.number) };
        queue::waiting(fd)
    }

    /// Another descriptor of the socket; None where no descriptor of this process stands for it.
    ///
    /// An owner may have cloned its listener and closed the original: then the clone is looked for
    /// among all descriptors, and its number is remembered.
    pub(crate) fn upgrade(&mut self) -> io::Result<Option<OwnedFd>> {
        // What has been found may be closed at once, after a clone was made that was passed over.
        const TRIES: usize = 3;
        for _ in 0..TRIES {
            if let Some(fd) = self.duplicate()? {
                return Ok(Some(fd));
            }
            match self.find()? {
                Some(number) => self.number = number,
                None => break,
            }
        }
        Ok(None)
    }

    /// Whether the number stands for the socket, and not for a duplicate that this crate itself keeps.
    pub(crate) fn is_owners(&self, but: &[BorrowedFd<'_>]) -> bool {
        but.iter().all(|fd| fd.as_raw_fd() != self.number) && self.is_open()
    }

    /// Whether one of this process's descriptors stands for the socket, besides those that this crate
    /// itself keeps.
    pub(crate) fn is_held(&mut self, all: &Descriptors, but: &[BorrowedFd<'_>]) -> bool {
        let numbers = all.0.get(&self.file).into_iter().flatten();
        let mut others = numbers.filter(|number| but.iter().all(|fd| fd.as_raw_fd() != **number));
        let found = others.next();
        self.number = found.copied().unwrap_or(self.number);
        found.is_some()
    }

    /// None where the number does not stand for the socket.
    fn duplicate(&self) -> io::Result<Option<OwnedFd>> {
        if File::at(self.number)? != Some(self.file) {
            return Ok(None);
        }
        // SAFETY: F_DUPFD_CLOEXEC takes an int and touches no memory.
        let fd = match check(unsafe { libc::fcntl(self.number, libc::F_DUPFD_CLOEXEC, 0) }) {
            Ok(fd) => fd,
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => return Ok(None),
            Err(error) => return Err(error),
        };
        // SAFETY: the kernel just made this descriptor, and no other code knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // Its owner may have closed it, and another thread opened something, since the first look.
        Ok((File::at(fd.as_raw_fd())? == Some(self.file)).then_some(fd))
    }

    /// The number of a descriptor that stands for the socket.
    fn find(&self) -> io::Result<Option<RawFd>> {
        let is_it =
            |number: &RawFd| matches!(File::at(*number), Ok(Some(file)) if file == self.file);
        Ok(open_numbers()?.into_iter().find(is_it))
    }
}

/// One more than the highest number that a descriptor can have.
fn numbers() -> io::Result<RawFd> {
    /// A table of 2^20 takes tenths of a second, and is the default of fs.nr_open.
    const MOST: libc::rlim_t = 1 << 20;
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: the pointer is to room for one rlimit, which the kernel fills.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) })?;
    // SAFETY: getrlimit succeeded, so the kernel has filled it.
    let limit = unsafe { limit.assume_init() };
    // Not the soft limit, which may have been lowered since.
    Ok(limit.rlim_max.min(MOST) as RawFd)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File as Opened;
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    fn held(weak: &mut Weak, but: &[BorrowedFd<'_>]) -> bool {
        weak.is_owners(but) || weak.is_held(&Descriptors::look().unwrap(), but)
    }

    use super::super::testing::limit_descriptors;
    use super::*;
    use crate::sys::child::alone;

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn nothing() -> Opened {
        Opened::open("/dev/null").unwrap()
    }

    fn weak(fd: &impl AsFd) -> Weak {
        Weak::new(fd.as_fd()).unwrap()
    }

    #[test]
    fn it_is_the_socket_and_keeps_no_descriptor() {
        let socket = listener();
        let mut weak = weak(&socket);
        assert!(weak.is_open());
        let another = weak.upgrade().unwrap().unwrap();
        assert_eq!(File::at(another.as_raw_fd()).unwrap(), Some(weak.file));
        drop(another);
        assert!(held(&mut weak, &[]));
        assert!(!held(&mut weak, &[socket.as_fd()]));
    }

    #[test]
    fn a_clone_is_found_when_the_original_is_closed() {
        let original = listener();
        let mut weak = weak(&original);
        let clone = original.try_clone().unwrap();
        drop(original);
        // What has the number now, if another test has it, is not the socket.
        assert!(!weak.is_open());
        drop(weak.upgrade().unwrap().unwrap());
        assert_eq!(weak.number, clone.as_raw_fd());
        assert!(weak.is_open());
    }

    #[test]
    fn what_is_closed_is_none() {
        alone("sys::linux::weak::tests::what_is_closed_is_none", || {
            let socket = listener();
            let mut weak = weak(&socket);
            drop(socket);
            assert!(weak.upgrade().unwrap().is_none());
            // The number stands for something else.
            let other = nothing();
            assert_eq!(other.as_raw_fd(), weak.number);
            assert!(!weak.is_open());
            assert!(weak.upgrade().unwrap().is_none());
        });
    }

    /// No descriptor is left to search with, either.
    #[test]
    fn no_descriptor_left_is_an_error_and_not_none() {
        const TEST: &str = "sys::linux::weak::tests::no_descriptor_left_is_an_error_and_not_none";
        alone(TEST, || {
            let socket = listener();
            let clone = listener();
            let (mut open, mut cloned) = (weak(&socket), weak(&clone));
            let another = clone.try_clone().unwrap();
            let closed = listener();
            let mut gone = weak(&closed);
            drop((clone, closed));
            let highest = another.as_raw_fd() as libc::rlim_t + 1;
            limit_descriptors(|_| highest);
            let _filled: Vec<_> = (0..highest)
                .map_while(|_| Opened::open("/dev/null").ok())
                .collect();
            let refusal = |weak: &mut Weak| weak.upgrade().unwrap_err().raw_os_error();
            assert_eq!(refusal(&mut open), Some(libc::EMFILE));
            assert_eq!(refusal(&mut cloned), Some(libc::EMFILE));
            assert_eq!(cloned.number, another.as_raw_fd());
            assert!(gone.upgrade().unwrap().is_none());
        });
    }

    #[test]
    fn a_duplicate_of_ones_own_does_not_count() {
        let socket = listener();
        let mut weak = weak(&socket);
        let own = weak.upgrade().unwrap().unwrap();
        assert!(held(&mut weak, &[own.as_fd()]));
        let clone = socket.try_clone().unwrap();
        drop(socket);
        assert!(held(&mut weak, &[own.as_fd()]));
        drop(clone);
        assert!(!held(&mut weak, &[own.as_fd()]));
        assert!(held(&mut weak, &[]));
    }
}
