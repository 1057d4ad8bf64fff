//! Looks at a descriptor from elsewhere before it is taken for a listener or a UDP socket.

use std::io;
use std::net::SocketAddr;

use crate::error::Error;
use crate::sys::{self, AsFd, Description, Family, Kind, OwnedFd};
use crate::trace;

/// A descriptor that is what it was said to be, and bound; no child of this process will have it.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) fd: OwnedFd,
    kind: Kind,
    pub(crate) addr: SocketAddr,
}

/// Takes a socket, shared or not, in that mode.
pub(crate) fn whole(fd: OwnedFd, kind: Kind, nonblocking: bool) -> Result<OwnedFd, Error> {
    socket(fd, kind)
        .and_then(|adopted| adopted.in_mode(nonblocking))
        .inspect_err(trace::refused)
}

/// Takes a socket that shares its port, in the mode that std's sockets have; or as it is, where another process uses
/// it.
pub(crate) fn member(fd: OwnedFd, kind: Kind, in_use: bool) -> Result<Adopted, Error> {
    let adopted = socket(fd, kind)?;
    check_shared(&adopted.fd, adopted.addr)?;
    if in_use {
        trace::adopted(kind, adopted.addr);
        return Ok(adopted);
    }
    let Adopted { addr, .. } = adopted;
    Ok(Adopted {
        fd: adopted.in_mode(false)?,
        kind,
        addr,
    })
}

impl Adopted {
    fn in_mode(self, nonblocking: bool) -> Result<OwnedFd, Error> {
        let Self { fd, kind, addr } = self;
        sys::set_nonblocking(&fd, nonblocking)
            .map_err(|error| Error::system(cannot(&fd), error).at(addr))?;
        trace::adopted(kind, addr);
        Ok(fd)
    }
}

/// The address of a listener or UDP socket that shares its port, which is left as it is.
pub(crate) fn look(fd: &OwnedFd, kind: Kind) -> Result<SocketAddr, Error> {
    let found = inspect(fd, kind, || cannot(fd))?;
    let addr = judge(&found, kind).map_err(|why| Error::invalid(cannot(fd), why))?;
    check_shared(fd, addr).map(|()| addr)
}

fn check_shared(fd: &OwnedFd, addr: SocketAddr) -> Result<(), Error> {
    match sys::is_shared(sys::borrow(fd)) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let why = "it does not share its port: SO_REUSEPORT is not set on it";
            Err(Error::invalid(cannot(fd), why).at(addr))
        }
        Err(error) => Err(Error::system(cannot(fd), error).at(addr)),
    }
}

fn socket(fd: OwnedFd, kind: Kind) -> Result<Adopted, Error> {
    let found = inspect(&fd, kind, || cannot(&fd))?;
    let addr = judge(&found, kind).map_err(|why| Error::invalid(cannot(&fd), why))?;
    sys::set_close_on_exec(sys::borrow(&fd))
        .map_err(|error| Error::system(cannot(&fd), error).at(addr))?;
    Ok(Adopted { fd, kind, addr })
}

fn cannot(fd: &OwnedFd) -> String {
    format!("cannot adopt {}", number(fd))
}

/// The word for a descriptor in a sentence.
pub(crate) fn number(fd: &impl AsFd) -> String {
    format!("descriptor {}", sys::number(fd))
}

/// Looks at what should be a TCP listener or a UDP socket, connected or not, and says what it is
/// instead.
pub(crate) fn inspect(
    fd: &impl AsFd,
    kind: Kind,
    cannot: impl Fn() -> String,
) -> Result<Description, Error> {
    let found = sys::describe(sys::borrow(fd)).map_err(|error| {
        let no_socket = sys::is_no_socket(&error);
        let error = Error::system(cannot(), error);
        match no_socket {
            true => error
                .why(Some("it is no socket, but a file or a pipe"))
                .with_kind(io::ErrorKind::InvalidInput),
            false => error,
        }
    })?;
    match mismatch(&found, kind) {
        Some(why) => Err(Error::invalid(cannot(), why)),
        None => Ok(found),
    }
}

/// What a socket is instead of a TCP listener or a UDP socket.
fn mismatch(found: &Description, kind: Kind) -> Option<String> {
    let meant = match kind {
        Kind::Tcp => "a TCP listener was meant",
        Kind::Udp => "a UDP socket was meant",
    };
    match found.family {
        Family::Unix => {
            return Some(format!(
                "it is a UNIX socket, which has no port, and {meant}"
            ));
        }
        Family::Other => return Some(format!("it is no socket of an IP network, and {meant}")),
        Family::V4 | Family::V6 => {}
    }
    match found.kind {
        None => return Some(format!("it is neither TCP nor UDP, and {meant}")),
        Some(other) if other != kind => {
            return Some(format!("it is a {} socket, and {meant}", other.name()));
        }
        Some(_) => {}
    }
    match (kind, found.peer) {
        (Kind::Tcp, Some(peer)) => Some(format!("it is a TCP connection with {peer}, and {meant}")),
        (Kind::Tcp, None) if !found.listening => {
            Some("it is a TCP socket that does not listen".to_owned())
        }
        _ => None,
    }
}

/// The address of a listener, or of a UDP socket that receives from every peer.
fn judge(found: &Description, kind: Kind) -> Result<SocketAddr, String> {
    if let (Kind::Udp, Some(peer)) = (kind, found.peer) {
        return Err(format!("it is connected, and receives from {peer} only"));
    }
    match found.local {
        Some(addr) if addr.port() != 0 => Ok(addr),
        _ => Err("it is bound to no port".to_owned()),
    }
}
