//! Connecting as a client does, from a port of its own.

use std::io;
use std::net::{SocketAddr, TcpStream};

use super::Net;
use crate::error::Error;
use crate::open::addr::of_many;
use crate::sys::{self, Kind, Socket};
use crate::trace;

pub(crate) async fn connect<R: Net>(remote: SocketAddr) -> Result<R::TcpStream, Error> {
    let connected = async {
        check(remote, format_args!("cannot connect to {remote}"))?;
        let stream = start(remote, begins_nonblocking(R::NONBLOCKING));
        let stream = stream.map_err(|error| refused(remote, error))?;
        let stream = R::connected(stream).await;
        let stream = stream.map_err(|error| refused(remote, error))?;
        if sys::is_connected_to_itself(&stream).map_err(|error| refused(remote, error))? {
            return Err(itself(remote, &stream));
        }
        Ok(stream)
    };
    connected.await.inspect_err(trace::refused)
}

/// What "address not available" means where the kernel chooses the port.
pub(super) const NO_PORT: &str = "no local port is free for that peer";

/// Refuses what no connection can be made with.
pub(super) fn check(remote: SocketAddr, what: std::fmt::Arguments<'_>) -> Result<(), Error> {
    let why = match of_many(remote.ip()) {
        Some(many) => format!("{many}, and TCP is between two sockets"),
        None if remote.port() == 0 => "no socket has port 0".to_owned(),
        None => return Ok(()),
    };
    Err(Error::invalid(what.to_string(), why).at(remote))
}

/// Whether a connect only begins in the system call: in a runtime that waits for its end, and where a
/// wait that blocks must have an end.
pub(super) fn begins_nonblocking(nonblocking: bool) -> bool {
    #[cfg(feature = "std")]
    let is_bounded = super::deadline::current().is_some();
    #[cfg(not(feature = "std"))]
    let is_bounded = false;
    nonblocking || is_bounded
}

fn start(remote: SocketAddr, nonblocking: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Kind::Tcp, &remote, nonblocking)?;
    socket.connect(&remote)?;
    Ok(socket.into_stream())
}

/// The kernel chose the very port that is asked for, and nothing listens there.
fn itself(remote: SocketAddr, stream: &impl sys::AsFd) -> Error {
    if let Err(error) = sys::reset_at_close(stream) {
        return refused(remote, error);
    }
    let why = "nothing listens there, and TCP has connected the socket with itself";
    let what = format!("cannot connect to {remote}");
    Error::refused(io::ErrorKind::ConnectionRefused, what, why).at(remote)
}

fn refused(remote: SocketAddr, error: io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::AddrNotAvailable => Some(NO_PORT),
        _ => None,
    };
    Error::system(format!("cannot connect to {remote}"), error)
        .at(remote)
        .why(why)
}
