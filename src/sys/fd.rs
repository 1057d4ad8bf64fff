//! std's descriptor types under one name: sockets on Windows, file descriptors everywhere else.

cfg_if::cfg_if! {
    if #[cfg(windows)] {
        use std::os::windows::io::{AsRawSocket, RawSocket};
        pub(crate) use std::os::windows::io::{
            AsSocket as AsFd, BorrowedSocket as BorrowedFd, OwnedSocket as OwnedFd,
        };

        pub(crate) fn borrow(fd: &impl AsFd) -> BorrowedFd<'_> {
            fd.as_socket()
        }

        /// The number by which people know a descriptor, for sentences.
        pub(crate) fn number(fd: &impl AsFd) -> RawSocket {
            fd.as_socket().as_raw_socket()
        }

        impl<S: crate::Socket> AsFd for crate::Member<S> {
            fn as_socket(&self) -> BorrowedFd<'_> {
                self.get_ref().as_socket()
            }
        }
    } else {
        use std::os::fd::{AsRawFd, RawFd};
        pub(crate) use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

        pub(crate) fn borrow(fd: &impl AsFd) -> BorrowedFd<'_> {
            fd.as_fd()
        }

        /// The number by which people know a descriptor, for sentences.
        pub(crate) fn number(fd: &impl AsFd) -> RawFd {
            fd.as_fd().as_raw_fd()
        }

        impl<S: crate::Socket> AsFd for crate::Member<S> {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.get_ref().as_fd()
            }
        }
    }
}
