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

        /// Lends the socket of a type that has one in `get_ref()`.
        macro_rules! impl_as_fd {
            ($type:ident, $bound:ident) => {
                impl<S: $bound> sys::AsFd for $type<S> {
                    fn as_socket(&self) -> sys::BorrowedFd<'_> {
                        self.get_ref().as_socket()
                    }
                }
            };
        }
        pub(crate) use impl_as_fd;
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

        /// Lends the socket of a type that has one in `get_ref()`.
        macro_rules! impl_as_fd {
            ($type:ident, $bound:ident) => {
                impl<S: $bound> sys::AsFd for $type<S> {
                    fn as_fd(&self) -> sys::BorrowedFd<'_> {
                        self.get_ref().as_fd()
                    }
                }
            };
        }
        pub(crate) use impl_as_fd;
    }
}
