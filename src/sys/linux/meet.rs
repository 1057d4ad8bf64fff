//! Names at which processes meet: abstract UNIX addresses.
//!
//! They belong to a network namespace, as ports do, are in no file system, and are free again when
//! the last descriptor of their listener closes (unix(7)). Nobody owns one: any user can listen
//! first and any user can connect, so both sides ask who the other is.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::Duration;

cfg_if::cfg_if! {
    if #[cfg(target_os = "android")] {
        use std::os::android::net::SocketAddrExt;
    } else {
        use std::os::linux::net::SocketAddrExt;
    }
}

use crate::sys::socket;

/// Fails with AddrInUse where somebody has the name, and with InvalidInput past 107 bytes.
pub(crate) fn listen(name: &[u8]) -> io::Result<OwnedFd> {
    let addr = SocketAddr::from_abstract_name(name)?;
    UnixListener::bind_addr(&addr).map(OwnedFd::from)
}

/// Connects, and bounds this and every later wait of the stream.
///
/// Fails with ConnectionRefused where nobody listens, or who did has closed, and with TimedOut
/// where too many wait already.
pub(crate) fn connect(name: &[u8], timeout: Duration) -> io::Result<OwnedFd> {
    let name = [b"\0", name].concat();
    socket::connect_unix(Path::new(OsStr::from_bytes(&name)), timeout)
}

/// Waits for the next who connects.
///
/// Who connected before [`close`] is still accepted after it; then every call, one that already
/// waits too, fails with InvalidInput (EINVAL; kernel: unix_accept).
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    socket::accept(&listener)
}

/// Lets nobody connect any more and wakes who accepts, in whatever process.
///
/// The name is taken until the last descriptor of the listener closes.
pub(crate) fn close(listener: BorrowedFd<'_>) -> io::Result<()> {
    socket::shut_down(&listener)
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
