//! The network namespace that a socket is in.

use std::os::fd::BorrowedFd;

use crate::sys::unix::words;

cfg_if::cfg_if! {
    if #[cfg(any(target_arch = "sparc", target_arch = "sparc64"))] {
        const SO_NETNS_COOKIE: libc::c_int = 0x50;
    } else {
        /// <asm-generic/socket.h>; libc has it for some versions.
        const SO_NETNS_COOKIE: libc::c_int = 71;
    }
}

/// The number of the network namespace of a socket, which no other namespace has until the machine
/// starts anew; `None` before Linux 5.14.
pub(crate) fn namespace(fd: BorrowedFd<'_>) -> Option<u64> {
    let cookie = words::<2>(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE)
        .ok()
        .flatten();
    cookie.map(|[a, b]| u64::from(a) << 32 | u64::from(b))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::super::testing::{in_namespace, skip};
    use super::*;

    #[test]
    fn a_socket_is_of_the_namespace_in_which_it_was_opened() {
        let open = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let here = open();
        let Some(number) = namespace(here.as_fd()) else {
            return skip("the namespace of a socket (this kernel does not tell it)");
        };
        assert_eq!(namespace(open().as_fd()), Some(number));
        in_namespace("the namespace of a socket", || {
            assert_ne!(namespace(open().as_fd()), Some(number));
            assert_eq!(namespace(here.as_fd()), Some(number));
        });
    }
}
