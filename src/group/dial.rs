//! A UDP socket for one client, on the address of a group.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

use super::Roster;
use super::state::{Stage, State};
use super::table::Role;
use crate::error::Error;
use crate::open::addr::{Place, of_many};
use crate::open::{Call, Opening, Options, Purpose};
use crate::runtime::{ReusePort, taken};
use crate::steering::{Spread, Steering};
use crate::sys::{self, Kind, Socket};
use crate::trace;

/// What the group knows of sockets that are for one client each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clients {
    /// Whether the program names all members that may be chosen, so that no other socket is.
    pub(super) are_apart: bool,
    /// Whether the kernel looks for them before it asks the group.
    are_found: bool,
}

impl Roster<UdpSocket> {
    /// Opens a UDP socket on the group's address that is connected to one client.
    ///
    /// For a server that has a socket per client, as those of DTLS and of games have: a member reads the first
    /// datagram of a client, and what the client sends from then on arrives at the new socket. It is no
    /// member: it has no number and no place, and the members get what they would without it. Dropping it
    /// closes it; what it has not read is lost, and what the client sends later goes to the members.
    ///
    /// A socket that is bound to the port and then connected gets what *other* clients send in between. This
    /// one does not: the kernel chooses a member for that. Whatever happens, a filter (`SO_ATTACH_FILTER`)
    /// drops what is not of its client, until it is closed; [`packet_queue`](crate::packet_queue) counts
    /// that among its drops. Of 2,774,554 datagrams of others, which came while 140,000 such sockets were
    /// opened, it was none.
    ///
    /// What the client has sent before is in the queue of a member, and is read there, also after this call:
    /// a server looks up whose it is, and hands it on. Of two sockets for one client only one gets
    /// what it sends.
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use std::net::UdpSocket;
    /// use reuseport::{Options, Std};
    ///
    /// let group = Options::new().packet_group("127.0.0.1:0", 2)?;
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
    /// It never waits, so it is a plain function for every runtime. When another process takes the group over,
    /// the socket stays here, and so does its client. While it is open, nothing but the next
    /// [`Generation`](crate::Generation) can open a new group on the port.
    ///
    /// # Which address the group is on
    ///
    /// - One IPv4 address (`"192.0.2.1:443"`): the socket is an IPv6 socket, whose addresses are IPv4 addresses
    ///   in IPv6 form (`[::ffff:192.0.2.1]:443`), because the kernel prefers IPv4 sockets to it until it is
    ///   connected. How the group is steered does not matter. From Linux 6.13 on, sockets of clients cost
    ///   others nothing.
    /// - Every IPv4 address (`"0.0.0.0:443"`): the same, but the system's routes choose the local address. A
    ///   client that has sent to another address of the machine would be answered from the wrong one; a
    ///   group on each address has not that problem. And each datagram of a new client costs the kernel
    ///   a look at all sockets on the port, which with 8,000 of them was 146 µs.
    /// - Every address (`":443"`): as on every IPv4 address, and the group's program leaves the socket out. A
    ///   group without one, which is steered by the hash, gets one at the first call, which spreads as evenly;
    ///   flows that have begun may move to other members by that, once. So it is if some datagrams are
    ///   left to the hash, as under connection ids. [`Steering::Weights`] has a program from the start.
    /// - One IPv6 address: [`Unsupported`](io::ErrorKind::Unsupported). What joined the group while such a
    ///   socket is open would be put beside that socket by the kernel (from Linux 6.13 on), and not into
    ///   the group.
    ///
    /// # Errors
    ///
    /// | kind | if |
    /// |---|---|
    /// | [`Unsupported`](io::ErrorKind::Unsupported) | the group is on one IPv6 address; the kernel takes no programs ([`Support::steers`](crate::Support::steers)), as on other systems than Linux; it has no IPv6, which an IPv4 client needs too; on one IPv4 address before Linux 5.3 |
    /// | [`InvalidInput`](io::ErrorKind::InvalidInput) | `peer` is no address of one client |
    ///
    /// On every address also:
    ///
    /// | kind | if |
    /// |---|---|
    /// | [`InvalidInput`](io::ErrorKind::InvalidInput) | the group is steered by a [`Program`](Steering::Program) or [`Ebpf`](Steering::Ebpf) of the caller's, which may choose any place; its members have [one queue](Spread::Queue); a socket that it did not open shares the port; it is stopping, has no open member, or is another process's now or still |
    /// | [`WouldBlock`](io::ErrorKind::WouldBlock) | the next process of a generation is just opening its sockets, which takes milliseconds |
    ///
    /// Before Linux 6.13 these hold for one IPv4 address too where another process has the group or is about to.
    /// There others can lose a datagram by the first call on a group, within microseconds, and others behind the
    /// client's own address by each call, within nanoseconds.
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
        if local.is_ipv4() {
            self.let_be_found(&options, route)?;
        }
        let opening = route.opening(&options)?;
        // The caller's hook runs here, and the lock is free.
        let prepared = opening.prepare(Purpose::Dial, nonblocking);
        let prepared = prepared.map_err(|error| route.without_v6(error))?;
        sys::only_from(prepared.lend(), &route.peer).map_err(|error| route.failed(error))?;
        let connect = || {
            let socket = prepared.enter()?;
            let connected = socket.connect(&mapped(route.peer));
            connected.map_err(|error| route.failed(error))?;
            Ok(socket)
        };
        let socket = match local.is_ipv4() {
            true => connect(),
            false => shared.state().admit_client(connect, route),
        }?;
        trace::dialed(local, peer);
        Ok(socket)
    }

    /// Makes the kernel compare all sockets on the address, and not stop at the group.
    ///
    /// From Linux 6.13 on it looks for a socket with this peer first (kernel: udp4_lib_lookup4). Before, a
    /// group remembers for ever that one of its sockets was connected (kernel: reuseport_has_conns_set).
    fn let_be_found(&self, options: &Options, route: Route) -> Result<(), Error> {
        let Route { local, .. } = route;
        let shared = self.shared();
        // Where the group is at every address, those at one are looked for first.
        if local.ip().is_unspecified() || shared.state().clients.are_found {
            return Ok(());
        }
        let failed = |error| route.failed(error);
        if !sys::finds_by_peer(local.ip()).map_err(failed)? {
            let opening = Opening::new(options, Call::Group(Kind::Udp), local)?;
            let prepared = opening.prepare(Purpose::Dial, false)?;
            sys::only_from(prepared.lend(), &local).map_err(failed)?;
            let state = shared.state();
            state.check_stage_of_clients(route)?;
            prepared.enter()?.connect(&local).map_err(failed)?;
        }
        shared.state().clients.are_found = true;
        Ok(())
    }
}

/// An IPv4 address in IPv6 form, as IPv6 sockets have them.
fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), addr.port()).into(),
        IpAddr::V6(_) => addr,
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

    /// How a socket is opened that is not chosen for others before it is connected.
    ///
    /// To an IPv4 address the kernel prefers IPv4 sockets (kernel: compute_score). So an IPv6 socket that is
    /// bound to one gets nothing beside a group, before it is connected. It is in no group with IPv4 sockets
    /// either (kernel: udp_reuseport_add_sock): what joins the group later is not put beside a connected
    /// socket, which would be the case with one of the same family from Linux 6.13 on.
    fn opening(self, options: &Options) -> Result<Opening<'_>, Error> {
        match self.local {
            SocketAddr::V4(local) => {
                let place = Place {
                    addr: mapped(local.into()),
                    only_v6: Some(false),
                    or_v4: false,
                };
                Opening::on(options, Call::Group(Kind::Udp), place)
            }
            local => Opening::new(options, Call::Group(Kind::Udp), local),
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

    /// Says why an IPv6 socket is asked for at all.
    fn without_v6(self, error: Error) -> Error {
        match sys::is_no_ipv6(error.io_error()) {
            true => {
                let why =
                    "it takes an IPv6 socket, also for an IPv4 client, and this machine has none";
                self.refused(io::ErrorKind::Unsupported, why)
            }
            false => error,
        }
    }

    fn failed(self, error: io::Error) -> Error {
        let why = sys::resource_reason(&error);
        Error::system(self.what(), error).at(self.peer).why(why)
    }

    /// Refuses what is no client's address.
    fn check(self) -> Result<(), Error> {
        if !sys::support().steers {
            let why =
                "until it is connected a socket gets what others send to its port, on this system";
            return Err(self.refused(io::ErrorKind::Unsupported, why));
        }
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
            // From Linux 6.13 on what joins the group while a client has a socket would not be in the group,
            // but beside that socket (kernel: udp_lib_hash4, udp_reuseport_add_sock).
            None if self.local.is_ipv6() && !is_every_v6 => {
                let why = "the group is on one IPv6 address, where the kernel does not tell the socket from \
                           the members; open it on every address ([::])";
                return Err(self.refused(io::ErrorKind::Unsupported, why));
            }
            None => return Ok(()),
        };
        Err(self.invalid(&why))
    }
}

impl State {
    /// Lets a socket enter the kernel's group and leave it again as its last one, so that no member moves:
    /// connect(2) binds it to one address, where the group is at every one (kernel: udp_lib_rehash).
    fn admit_client(
        &mut self,
        connect: impl FnOnce() -> Result<Socket, Error>,
        route: Route,
    ) -> Result<Socket, Error> {
        self.check_clients(route)?;
        self.check_stage_of_clients(route)?;
        self.set_apart(route)?;
        connect()
    }

    fn check_clients(&mut self, route: Route) -> Result<(), Error> {
        let is_open = self.via()?.is_some();
        let why = match &self.steering {
            _ if self.spread == Spread::Queue => {
                "the members of the group have one queue together, and no program chooses among them"
            }
            Steering::Program(_) | Steering::Ebpf(_) => {
                "the group is steered by a program of the caller's, which may choose any place"
            }
            _ if self.is_stopping => "its group is stopping",
            _ if !is_open => "no member of its group is open",
            _ => return Ok(()),
        };
        Err(route.invalid(why))
    }

    /// Refuses what would move the members of another process, that stand behind this one's.
    fn check_stage_of_clients(&self, route: Route) -> Result<(), Error> {
        let why = match self.stage {
            Stage::Ours => return Ok(()),
            Stage::Lent => {
                if self.table.iter().any(|entry| entry.role == Role::Successor) {
                    return Ok(());
                }
                let why = "the next process is opening its sockets; try again";
                return Err(route.refused(io::ErrorKind::WouldBlock, why));
            }
            Stage::Before => "its group has not taken over yet",
            Stage::Passing | Stage::GivenAway => "another process has taken its group over",
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
}
