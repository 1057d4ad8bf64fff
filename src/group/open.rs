//! Opens a group: all of its members, or none.

use std::net::{TcpListener, UdpSocket};

use super::{Group, Member, Socket};
use crate::error::Error;
use crate::open::addr::Target;
use crate::open::{Call, Opening, Options, Purpose, ToAddr, both};
use crate::steering::{Spread, Steering};
use crate::sys::{self, Kind};
use crate::trace;

pub(crate) fn open<S: Socket>(
    options: &Options,
    call: Call,
    addr: impl ToAddr,
    n: usize,
) -> Result<Group<S>, Error> {
    let opening = Opening::new(options, call, addr)?;
    let count = |why| {
        Err(Error::invalid(
            format!("cannot open a group of {n} on {}", opening.addr()),
            why,
        ))
    };
    if n == 0 {
        return count("a group has at least one member".to_owned());
    }
    let spread = options.spread.here();
    // Systems that share nothing say so themselves, when they are asked to.
    let limit = sys::GROUP_LIMIT;
    if spread == Spread::Kernel && n > limit && limit != 0 {
        return count(format!("this system takes {limit} members at the most"));
    }

    // A port of the kernel's choice is new in any case.
    let new = !options.join || opening.addr().port() == 0;
    let first = match new {
        _ if spread == Spread::Queue && !sys::support().shares => Purpose::Alone,
        true => Purpose::Found,
        false => Purpose::Join(0, n),
    };
    let socket = opening.open(first, false)?;
    sys::reserve(socket.lend(), n - 1);
    let opening = opening.settled(&socket)?;
    // Not more at once than any kernel's group holds: where there is no limit, descriptors run out
    // first.
    let mut members = Vec::with_capacity(n.min(1 << 15));
    members.push(Member::new(S::from_socket(socket), 0));
    for index in 1..n {
        let join = Purpose::Join(index, n);
        let socket = match spread {
            Spread::Queue => {
                let first: &S = members[0].get_ref();
                first
                    .duplicate()
                    .map_err(|error| opening.refused(join, error))?
            }
            _ => S::from_socket(opening.open(join, false)?),
        };
        members.push(Member::new(socket, index));
    }
    // A member that joins later must come from a thread of the same network namespace.
    let options = match members.first() {
        Some(first) => options.clone().beside(first),
        None => options.clone(),
    };
    let steering = options.steering.clone();
    let group = Group::new(opening.addr(), members, spread, new, options);
    trace::opened_group(S::KIND, group.addr, n, &spread, new);
    if !matches!(steering, Steering::Hash) {
        group.roster.shared().state().steer(&steering)?;
    }
    Ok(group)
}

impl Options {
    /// Opens `n` TCP listeners on one port, all or none.
    ///
    /// Each has its own queue where the kernel spreads the load over them, and all have one where
    /// it does not: see [`Spread`].
    ///
    /// Opening a group fails where any socket has the port already, this user's included. On Linux
    /// that is proven by the kernel at the first member's bind, and member *i* is in the kernel's
    /// place *i* as long as no other process of this user joins. On FreeBSD, DragonFly and gVisor it
    /// is checked just before. [`join`](Self::join) lifts it.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{Options, Std};
    ///
    /// let group = Options::new().group("localhost:0", 4)?;
    /// let addr = group.local_addr();
    /// let workers: Vec<_> = group
    ///     .into_iter()
    ///     .map(|member| std::thread::spawn(move || member.attach::<Std>().map(drop)))
    ///     .collect();
    /// # for worker in workers { worker.join().unwrap()?; }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen), and [`AddrInUse`](std::io::ErrorKind::AddrInUse) with
    /// [`Holder::Group`](crate::Holder::Group) where this user has a group on the port.
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) for 0 members, for more than
    /// [`group_limit`](crate::Support::group_limit), and as [`Group::steer`].
    pub fn group(&self, addr: impl ToAddr, n: usize) -> Result<Group<TcpListener>, Error> {
        open(self, Call::Group(Kind::Tcp), addr, n).inspect_err(trace::refused)
    }

    /// Opens `n` UDP sockets on one port, all or none.
    ///
    /// As [`group`](Self::group). Never connect(2) a member: the kernel takes it out of the group. A
    /// socket that is connected to one client is opened by
    /// [`Roster::dial_packet`](crate::Roster::dial_packet).
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().packet_group("localhost:0", 4)?;
    /// assert_eq!(group.len(), 4);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`group`](Self::group).
    pub fn packet_group(&self, addr: impl ToAddr, n: usize) -> Result<Group<UdpSocket>, Error> {
        open(self, Call::Group(Kind::Udp), addr, n).inspect_err(trace::refused)
    }
    /// Opens `n` TCP listeners and `n` UDP sockets on one port number, all or none.
    ///
    /// For port 0 it is a number that no other socket has, of either protocol. Otherwise it is
    /// [`group`](Self::group) and [`packet_group`](Self::packet_group) on that port. Each group has its
    /// own roster. [`backlog`](Self::backlog) is for TCP alone, and
    /// [`ConnectionIds`](Steering::ConnectionIds) for UDP alone.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::Options;
    ///
    /// let (listeners, sockets) = Options::new().group_both("localhost:0", 4)?;
    /// assert_eq!(listeners.local_addr(), sockets.local_addr());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`group`](Self::group). [`AddrInUse`](std::io::ErrorKind::AddrInUse) for port 0 where UDP
    /// sockets have all ports that were tried, which are 64 at most.
    pub fn group_both(
        &self,
        addr: impl ToAddr,
        n: usize,
    ) -> Result<(Group<TcpListener>, Group<UdpSocket>), Error> {
        let [tcp, mut udp] = self.for_both();
        let listen = |target: Target| {
            let group = open(&tcp, Call::Group(Kind::Tcp), target, n)?;
            let addr = group.local_addr();
            Ok((group, addr))
        };
        let target = addr.target().inspect_err(trace::refused)?;
        udp.join &= target.port() != 0;
        let listen_packet = |target: Target, _| open(&udp, Call::Group(Kind::Udp), target, n);
        // Of a group whose port is not free for UDP, one member keeps the port.
        let keep = |group: Group<TcpListener>| group.into_iter().next();
        both(self, target, listen, listen_packet, keep).inspect_err(trace::refused)
    }
}
