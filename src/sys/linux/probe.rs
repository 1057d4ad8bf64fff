//! What only the running kernel knows: asked once, with sockets that nothing can reach, and
//! remembered.
//!
//! WSL1 has no SO_REUSEPORT, gVisor takes programs and ignores them, kernels before 4.5 refuse
//! them, and versions tell little, because distributions carry changes back.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

use super::guard;
use crate::sys::{Kind, Socket, is_no_ipv6};

#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) shares: bool,
    pub(super) proof: Proof,
}

/// How a first member can be kept from joining an existing group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// With a program from before bind, which the kernel also honours when it chooses a member.
    Guard,
    /// By asking for the option only after bind.
    Late,
    /// Not at all: gVisor honours neither.
    None,
}

/// Fails where no socket could be opened to find out; the next call then asks again.
pub(super) fn facts() -> io::Result<Facts> {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    match FACTS.get() {
        Some(facts) => Ok(*facts),
        None => probe().map(|facts| *FACTS.get_or_init(|| facts)),
    }
}

/// Bound TCP sockets that never listen: no connection can end there.
fn probe() -> io::Result<Facts> {
    let nothing = Facts {
        shares: false,
        proof: Proof::None,
    };
    let holder = socket()?;
    if holder.set_reuse_port().is_err() {
        return Ok(nothing);
    }
    let addr = bind_any(&holder)?;
    let joiner = socket_for(&addr)?;
    joiner.set_reuse_port()?;
    if !binds(&joiner, &addr)? {
        return Ok(nothing);
    }

    let guarded = socket_for(&addr)?;
    guarded.set_reuse_port()?;
    let proof = if guard::attach(guarded.lend()).is_ok() && !binds(&guarded, &addr)? {
        Proof::Guard
    } else if late()? {
        Proof::Late
    } else {
        Proof::None
    };
    Ok(Facts {
        shares: true,
        proof,
    })
}

/// Can others join a socket that asked to share only after its bind?
fn late() -> io::Result<bool> {
    let holder = socket()?;
    let addr = bind_any(&holder)?;
    holder.set_reuse_port()?;
    let joiner = socket_for(&addr)?;
    joiner.set_reuse_port()?;
    binds(&joiner, &addr)
}

fn socket() -> io::Result<Socket> {
    match socket_for(&(Ipv4Addr::UNSPECIFIED, 0).into()) {
        Err(error) if is_no_ipv6(&error) => socket_for(&(Ipv6Addr::UNSPECIFIED, 0).into()),
        socket => socket,
    }
}

fn socket_for(addr: &SocketAddr) -> io::Result<Socket> {
    Socket::new(Kind::Tcp, addr, false)
}

/// Binds to a port of the kernel's choice, in the family that the socket has.
fn bind_any(socket: &Socket) -> io::Result<SocketAddr> {
    if socket.bind(&(Ipv4Addr::UNSPECIFIED, 0).into()).is_err() {
        socket.bind(&(Ipv6Addr::UNSPECIFIED, 0).into())?;
    }
    socket.local_addr()
}

fn binds(socket: &Socket, addr: &SocketAddr) -> io::Result<bool> {
    match socket.bind(addr) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error),
    }
}
