//! A listener that was opened alone comes to share its port.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use super::filter::Filter;
use crate::sys::unix::set_option;
use crate::sys::{Instruction, Kind, Socket};

/// BPF_RET with 0: of the packet nothing is kept.
const DROP: Instruction = Instruction {
    code: 0x06,
    jt: 0,
    jf: 0,
    k: 0,
};

/// Others are let in by the option, which may be set at any time (kernel: inet_bind_conflict). But the kernel makes
/// a group of the listener, which a program can be given to, only when another one comes (kernel: reuseport_attach_prog,
/// reuseport_add_sock): so one comes, and goes. It keeps no client: a SYN that it is given is dropped, and sent again
/// a second later.
pub(crate) fn share_late(listener: BorrowedFd<'_>, addr: &SocketAddr) -> io::Result<()> {
    let set =
        |shares: libc::c_int| set_option(listener, libc::SOL_SOCKET, libc::SO_REUSEPORT, &shares);
    set(1)?;
    come_and_go(listener, addr).inspect_err(|_| {
        // It is left as it was.
        let _ = set(0);
    })
}

fn come_and_go(listener: BorrowedFd<'_>, addr: &SocketAddr) -> io::Result<()> {
    let other = Socket::new(Kind::Tcp, addr, true)?;
    if addr.is_ipv6() {
        other.set_only_v6(crate::sys::only_v6(&listener)?)?;
    }
    super::restartable(&other, Kind::Tcp)?;
    super::share(&other)?;
    Filter::Classic(vec![DROP]).give(other.lend())?;
    other.bind(addr)?;
    other.listen(0)
}
