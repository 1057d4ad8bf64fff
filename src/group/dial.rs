//! A UDP socket for one client, on the address of a group.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

use super::Roster;
use super::state::{Stage, State};
use super::table::Role;
use crate::error::Error;
use crate::open::addr::of_many;
use crate::open::{Call, Opening, Prepared, Purpose};
use crate::runtime::{ReusePort, taken};
use crate::steering::{Spread, Steering};
use crate::sys::{self, Kind, Socket};
use crate::trace;

/// What the group knows of sockets that are for one client each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clients {
    /// Whether the program names all members that may be chosen, so that no other socket is.
    pub(super) are_apart: bool,
    /// Whether the kernel keeps a socket in the group that connects; none before the first has.
    linger: Option<bool>,
}

impl Roster<UdpSocket> {
    /// Opens a UDP socket on the group's address that is connected to one client.
    ///
    /// For a server that has a socket per client, as DTLS and many games have: a member reads the first
    /// datagram of a client, and what the client sends from then on arrives at the new socket. It is no
    /// member: it has no number and no place, and the members' shares, leaving and the next process of a
    /// [`Generation`](crate::Generation) are as without it. Dropping it closes it, and the client's datagrams
    /// go to the members again.
    ///
    /// Another socket on the port that is bound and then connected gets what *other* clients send in between.
    /// This one does not. The group's program does not choose it, and until the end of its life a filter
    /// (`SO_ATTACH_FILTER`) drops what is not of its client, whatever happens. So no other client's datagram is
    /// ever read from it; in the test `clients` it was chosen for none of 200,000.
    ///
    /// What a client has sent before the call is in the queue of a member, and is read there, also after
    /// this call: a server looks up whose it is, and hands it on. Only one socket for a client at a time
    /// gets what it sends.
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use std::net::UdpSocket;
    /// use reuseport::{Options, Std, Steering};
    ///
    /// let weights = Steering::Weights(vec![1, 1]);
    /// let group = Options::new().steering(weights).packet_group("127.0.0.1:0", 2)?;
    /// let client = UdpSocket::bind("127.0.0.1:0")?;
    /// # if reuseport::support().steers {
    ///
    /// let socket: UdpSocket = group.roster().dial_packet::<Std>(client.local_addr()?)?;
    /// client.send_to(b"to you alone", group.local_addr())?;
    /// let mut buf = [0; 1500];
    /// assert_eq!(socket.recv(&mut buf)?, 12);
    /// # }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// It never waits, so it is a plain function for every runtime. A group that is steered by the kernel's
    /// hash gets a program at the first call, which spreads as evenly; flows that have begun may move to
    /// other members by that, once. [`Steering::Weights`] has one from the start.
    ///
    /// In a group at a wildcard (`":443"`) the system's routes choose the local address. A client that has sent
    /// to another address of the machine would be answered from the wrong one: open a group for each
    /// address then.
    ///
    /// Each datagram of a new client costs the kernel a walk past all sockets on the address: see PLATFORM.md.
    ///
    /// # Errors
    ///
    /// | kind | if |
    /// |---|---|
    /// | [`Unsupported`](io::ErrorKind::Unsupported) | the system cannot be told whom to choose ([`Support::steers`](crate::Support::steers) is false); before Linux 6.13 without CAP_NET_RAW, in a group that is not at a wildcard, because connect(2) leaves the socket in the group there |
    /// | [`InvalidInput`](io::ErrorKind::InvalidInput) | `peer` is no address of one client; the group is steered by a [`Program`](Steering::Program) or [`Ebpf`](Steering::Ebpf) of the caller's, which may choose any place; its members have [one queue](Spread::Queue); a socket that it did not open shares the port; it is stopping, or another process has taken it over |
    /// | [`WouldBlock`](io::ErrorKind::WouldBlock) | the next process of a generation is just opening its sockets, which takes milliseconds |
    ///
    /// As [`join`](Self::join) and connect(2) besides.
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    #[doc(alias("connect", "DTLS"))]
    pub fn dial_packet<R: ReusePort>(&self, peer: SocketAddr) -> Result<R::UdpSocket, Error> {
        let socket = self
            .dial_one(peer, R::NONBLOCKING)
            .inspect_err(trace::refused)?;
        taken(R::udp_socket(socket.into_udp()))
    }

    fn dial_one(&self, peer: SocketAddr, nonblocking: bool) -> Result<Socket, Error> {
        let shared = self.shared();
        let (options, local) = {
            let state = shared.state();
            (state.options.clone(), state.addr)
        };
        let route = Route::new(local, peer);
        route.check()?;
        if !sys::support().steers {
            let why = "until it is connected a socket gets what others send to its port, and this system \
                       cannot be told to choose another";
            return Err(route.refused(io::ErrorKind::Unsupported, why));
        }
        let opening = Opening::new(&options, Call::Group(Kind::Udp), local)?;
        // The caller's hook runs here, and the lock is free.
        let prepared = opening.prepare(Purpose::Dial, nonblocking)?;
        sys::only_from(prepared.lend(), &route.peer).map_err(|error| route.failed(error))?;
        let socket = shared.state().admit_client(prepared, route)?;
        trace::dialed(local, peer);
        Ok(socket)
    }
}

/// A client, as seen from the group on an address.
#[derive(Clone, Copy, Debug)]
struct Route {
    local: SocketAddr,
    peer: SocketAddr,
}

impl Route {
    /// An IPv4 address in IPv6 form is the IPv4 address.
    fn new(local: SocketAddr, peer: SocketAddr) -> Self {
        let peer = match peer.ip().to_canonical() {
            IpAddr::V4(ip) => (ip, peer.port()).into(),
            IpAddr::V6(_) => peer,
        };
        Self { local, peer }
    }

    /// The peer as a socket of the group's family connects to it.
    fn connectable(self) -> SocketAddr {
        match (self.local, self.peer.ip()) {
            (SocketAddr::V6(_), IpAddr::V4(ip)) => (ip.to_ipv6_mapped(), self.peer.port()).into(),
            _ => self.peer,
        }
    }

    fn what(self) -> String {
        format!("cannot dial {} from {}", self.peer, self.local)
    }

    fn invalid(self, why: &str) -> Error {
        self.refused(io::ErrorKind::InvalidInput, why)
    }

    fn refused(self, kind: io::ErrorKind, why: &str) -> Error {
        Error::refused(kind, self.what(), why.to_owned()).at(self.peer)
    }

    fn failed(self, error: io::Error) -> Error {
        let why = sys::resource_reason(&error);
        Error::system(self.what(), error).at(self.peer).why(why)
    }

    /// Refuses what is no client's address.
    fn check(self) -> Result<(), Error> {
        let families = [self.local, self.peer].map(|addr| addr.is_ipv4());
        let is_every_v6 = self.local.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let why = match of_many(self.peer.ip()) {
            Some(many) => format!("{many}, and the socket is for one client"),
            None if self.peer.ip().is_unspecified() => "no client has this address".to_owned(),
            None if self.peer.port() == 0 => "no socket has port 0".to_owned(),
            None if families[0] != families[1] && !(is_every_v6 && families[1]) => {
                "one address is IPv4 and the other is IPv6".to_owned()
            }
            None if of_many(self.local.ip()).is_some() => {
                "the group is on an address of many, from which nothing is sent".to_owned()
            }
            None => return Ok(()),
        };
        Err(self.invalid(&why))
    }
}

impl State {
    /// Lets a socket enter the kernel's group and leave it again as its last one, so that no member moves.
    fn admit_client(&mut self, prepared: Prepared<'_>, route: Route) -> Result<Socket, Error> {
        self.check_clients(route)?;
        self.set_apart(route)?;
        let socket = prepared.enter()?;
        let peer = route.connectable();
        socket.connect(&peer).map_err(|error| route.failed(error))?;
        self.let_go(&socket, route)?;
        Ok(socket)
    }

    fn check_clients(&mut self, route: Route) -> Result<(), Error> {
        let is_open = self.via()?.is_some();
        let is_opening = || !self.table.iter().any(|entry| entry.role == Role::Successor);
        let why = match (self.stage, &self.steering) {
            _ if self.spread == Spread::Queue => {
                "the members of the group have one queue together, and no program chooses among them"
            }
            (_, Steering::Program(_) | Steering::Ebpf(_)) => {
                "the group is steered by a program of the caller's, which may choose any place"
            }
            (Stage::Before, _) => "its group has not taken over yet",
            (Stage::Passing | Stage::GivenAway, _) => "another process has taken its group over",
            // Who is bound now stands behind this socket, and would move when it leaves the group.
            (Stage::Lent, _) if is_opening() => {
                let why = "the next process is opening its sockets; try again";
                return Err(route.refused(io::ErrorKind::WouldBlock, why));
            }
            _ if self.is_stopping => "its group is stopping",
            _ if !is_open => "no member of its group is open",
            _ => return Ok(()),
        };
        Err(route.invalid(why))
    }

    /// Gives the group a program that names its members, and so chooses no other socket.
    fn set_apart(&mut self, route: Route) -> Result<(), Error> {
        if self.clients.are_apart {
            return Ok(());
        }
        self.sweep()?;
        if self.table.iter().any(|entry| entry.role == Role::Stranger) {
            let why =
                "a socket that the group did not open shares the port, and would get nothing more";
            return Err(route.invalid(why));
        }
        self.clients.are_apart = true;
        let programmed = self.program_strictly();
        programmed.inspect_err(|_| self.clients.are_apart = false)
    }

    /// Takes a connected socket out of the kernel's group, if it is still there.
    fn let_go(&mut self, socket: &Socket, route: Route) -> Result<(), Error> {
        let linger = match self.clients.linger {
            Some(linger) => linger,
            None => {
                let dispatch = self.dispatch(&[], None)?;
                sys::is_grouped(socket.lend(), &dispatch).map_err(|error| route.failed(error))?
            }
        };
        self.clients.linger = Some(linger);
        match linger {
            false => Ok(()),
            true => sys::ungroup(socket.lend()).map_err(|error| {
                let why = "this kernel keeps a connected socket in its group, out of which only \
                           CAP_NET_RAW can take it; Linux 6.13 does so by itself";
                let error = route.failed(error).why(Some(why));
                error.with_kind(io::ErrorKind::Unsupported)
            }),
        }
    }
}
