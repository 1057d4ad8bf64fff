//! Connecting from a port that listeners share.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpStream};

use super::{Net, connect};
use crate::error::Error;
use crate::open::addr::{Place, Target};
use crate::open::{Call, Family, Opening, Options, Purpose, ToAddr};
use crate::sys::{self, AsFd};
use crate::trace;

/// A connection from one port to one peer.
#[derive(Clone, Copy, Debug)]
struct Route {
    local: SocketAddr,
    remote: SocketAddr,
}

pub(crate) async fn dial<R: Net>(
    options: &Options,
    local: Result<Target, Error>,
    remote: SocketAddr,
) -> Result<R::TcpStream, Error> {
    let dialed = async {
        let (stream, route) = start(
            options,
            local?,
            remote,
            connect::begins_nonblocking(R::NONBLOCKING),
        )?;
        let stream = R::connected(stream)
            .await
            .map_err(|error| route.refused(error))?;
        route.check(&stream)?;
        Ok(stream)
    };
    dialed.await.inspect_err(trace::refused)
}

pub(crate) fn dial_blocking(
    options: &Options,
    local: impl ToAddr,
    remote: SocketAddr,
) -> Result<TcpStream, Error> {
    let dial = || {
        let (stream, route) = start(options, local.target()?, remote, false)?;
        route.check(&stream)?;
        Ok(stream)
    };
    dial().inspect_err(trace::refused)
}

/// Binds, and connects; without `nonblocking` the connection stands when this returns.
fn start(
    options: &Options,
    local: Target,
    remote: SocketAddr,
    nonblocking: bool,
) -> Result<(TcpStream, Route), Error> {
    let place = place(options.family, local, remote)?;
    let route = Route {
        local: place.addr,
        remote,
    };
    let opening = Opening::on(options, Call::Dial, place)?;
    connect::check(remote, format_args!("cannot dial {remote}"))?;
    if route.local == remote {
        return Err(route.to_itself());
    }
    let socket = opening.open(Purpose::Dial, nonblocking)?;
    socket
        .connect(&remote)
        .map_err(|error| route.refused(error))?;
    Ok((socket.into_stream(), route))
}

/// Where a socket binds that is to reach `remote`: the peer's family decides what "every address"
/// is.
fn place(family: Family, local: Target, remote: SocketAddr) -> Result<Place, Error> {
    let remote_family = if remote.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    if family != Family::Any && family != remote_family {
        let why = format!("it is no address of Family::{family:?}, which was asked for");
        return Err(Error::invalid(format!("cannot dial {remote}"), why).at(remote));
    }
    let local = match local {
        // A dual-stack listener's own address is `[::]`, and it has the IPv4 port too.
        Target::Exact(local) if remote.is_ipv4() && local.ip() == Ipv6Addr::UNSPECIFIED => {
            Target::Every(local.port())
        }
        Target::Exact(local) if remote.is_ipv4() != local.ip().to_canonical().is_ipv4() => {
            let why = "one address is IPv4 and the other is IPv6";
            return Err(
                Error::invalid(format!("cannot dial {remote} from {local}"), why).at(remote),
            );
        }
        local => local,
    };
    local.place(remote_family)
}

impl Route {
    /// Refuses the connection that TCP makes of a socket with itself, silently, where both ends are
    /// one port.
    fn check(self, stream: &impl AsFd) -> Result<(), Error> {
        let Self { local, remote } = self;
        let may_be_itself = local.port() == 0 || local.port() == remote.port();
        let itself = may_be_itself && self.is_to_itself(stream)?;
        if itself {
            sys::reset_at_close(stream).map_err(|error| self.refused(error))?;
            return Err(self.to_itself());
        }
        trace::dialed(local, remote);
        Ok(())
    }

    fn is_to_itself(self, stream: &impl AsFd) -> Result<bool, Error> {
        sys::is_connected_to_itself(stream).map_err(|error| self.refused(error))
    }

    fn to_itself(self) -> Error {
        let Self { local, remote } = self;
        let why = "that is the port itself, and TCP would connect the socket with itself";
        Error::invalid(format!("cannot dial {remote} from {local}"), why).at(remote)
    }

    fn refused(self, error: io::Error) -> Error {
        let Self { local, remote } = self;
        let why = match error.kind() {
            // connect(2): the four numbers that name a connection are in use.
            io::ErrorKind::AddrNotAvailable if local.port() != 0 => {
                Some("this port has a connection with that peer already, or had one a moment ago")
            }
            io::ErrorKind::AddrNotAvailable => Some(connect::NO_PORT),
            _ => None,
        };
        Error::system(format!("cannot dial {remote} from {local}"), error)
            .at(remote)
            .why(why)
    }
}
