//! Who is at the other end of a UNIX stream.

use std::io;
use std::os::fd::BorrowedFd;

/// Who connected, or who listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The effective user, as this process's user namespace numbers it.
    pub(crate) uid: u32,
    /// `None` where the system does not tell, or the process is in no namespace that this one sees.
    pub(crate) pid: Option<u32>,
}

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
        /// SO_PEERCRED: as it was at connect(2), listen(2) or socketpair(2) (unix(7)).
        pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
            let words = crate::sys::unix::words(socket, libc::SOL_SOCKET, libc::SO_PEERCRED)?;
            // struct ucred: pid, uid, gid. A socket that has no peer has user -1.
            match words {
                Some([_, u32::MAX, _]) | None => Err(io::ErrorKind::NotConnected.into()),
                Some([pid, uid, _]) => Ok(Peer { uid, pid: (pid != 0).then_some(pid) }),
            }
        }

        /// From here on every frame that is sent to this end tells the process that sends it.
        ///
        /// SO_PASSCRED (unix(7)); what was sent before tells none. Sockets that a listener accepts
        /// have it from the listener, and what was sent before they were accepted tells it too
        /// (kernel: unix_stream_connect, or unix_sock_inherit_flags).
        pub(crate) fn tell_senders(socket: BorrowedFd<'_>) -> io::Result<()> {
            let on: libc::c_int = 1;
            crate::sys::unix::set_option(socket, libc::SOL_SOCKET, libc::SO_PASSCRED, &on)
        }
    } else {
        /// Nothing tells it here.
        pub(crate) fn tell_senders(_: BorrowedFd<'_>) -> io::Result<()> {
            Ok(())
        }
    }
}

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
    } else if #[cfg(any(target_os = "illumos", target_os = "solaris"))] {
        /// getpeerucred(3C): as it was at connect(3SOCKET) or listen(3SOCKET).
        pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
            use std::os::fd::AsRawFd;
            let mut credentials = std::ptr::null_mut();
            // SAFETY: the pointer is to room for a pointer; as that is null, the call allocates.
            crate::sys::unix::check(unsafe {
                libc::getpeerucred(socket.as_raw_fd(), &mut credentials)
            })?;
            // SAFETY: the call succeeded, so these are credentials, which are freed only below.
            let (uid, pid) = unsafe {
                (libc::ucred_geteuid(credentials), libc::ucred_getpid(credentials))
            };
            // SAFETY: the call above allocated them, and nothing refers to them any more.
            unsafe { libc::ucred_free(credentials) };
            Ok(Peer { uid, pid: u32::try_from(pid).ok() })
        }
    } else {
        /// getpeereid(3): as it was at connect(2) or listen(2).
        pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
            use std::os::fd::AsRawFd;
            let (mut uid, mut gid) = (0, 0);
            // SAFETY: the pointers are to room for one number each.
            crate::sys::unix::check(unsafe {
                libc::getpeereid(socket.as_raw_fd(), &mut uid, &mut gid)
            })?;
            Ok(Peer { uid, pid: None })
        }
    }
}
