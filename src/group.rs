use std::collections::HashSet;
use std::net::SocketAddr;
use std::{slice, vec};

use crate::opening::{Opening, Purpose};
use crate::sys::{self, AsFd, OwnedFd};
use crate::{
    Error, Member, Options, Roster, Socket, Spread, Steering, ToAddr, adopt, handover, trace,
};

/// Sockets on one port that were opened together, before any of them serves.
///
/// [`Options::group`] and [`Options::packet_group`] open one; all its errors come from there, on
/// the calling thread, while the process still has its privileges. Its members are std's sockets,
/// in blocking mode, and each [enters its runtime](Member::attach) where it works. Dropping the
/// group closes the members that are left.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use reuseport::{Options, Std};
///
/// let group = Options::new().packet_group("localhost:0", 2)?;
/// assert_eq!(group.len(), 2);
/// for member in group {
///     let socket = member.attach::<Std>()?;
/// }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a group closes its sockets"]
pub struct Group<S> {
    addr: SocketAddr,
    members: Vec<Member<S>>,
    spread: Spread,
    roster: Roster<S>,
}

pub(crate) fn open<S: Socket>(
    options: &Options,
    addr: impl ToAddr,
    n: usize,
) -> Result<Group<S>, Error> {
    let opening = Opening::new(options, S::KIND, addr)?;
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
    let group = Group::new(opening.addr(), members, spread, new, options.clone());
    trace::opened_group(S::KIND, group.addr, n, spread, new);
    if !matches!(options.steering, Steering::Hash) {
        group.roster.steer_all(&group.members, &options.steering)?;
    }
    Ok(group)
}

impl<S: Socket> Group<S> {
    fn new(
        addr: SocketAddr,
        members: Vec<Member<S>>,
        spread: Spread,
        new: bool,
        options: Options,
    ) -> Self {
        let roster = Roster::new(addr, members.len(), spread, new, options);
        Self::of(addr, members, spread, roster)
    }

    pub(crate) fn of(
        addr: SocketAddr,
        members: Vec<Member<S>>,
        spread: Spread,
        roster: Roster<S>,
    ) -> Self {
        Self {
            addr,
            members,
            spread,
            roster,
        }
    }

    /// Takes sockets that were opened elsewhere, by systemd or the process before this one, for a
    /// group.
    ///
    /// Their order becomes the members' [indices](Member::index). They are put into blocking mode,
    /// which acts on everybody who has the same socket, and are no longer inherited by children.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where there is none, where one is no
    /// socket of this kind or does not share its port, where two are on different addresses, or are
    /// one socket. All of them are closed then.
    pub fn adopt<F: Into<OwnedFd>>(fds: impl IntoIterator<Item = F>) -> Result<Self, Error> {
        Self::adopt_all(fds).inspect_err(trace::refused)
    }

    fn adopt_all<F: Into<OwnedFd>>(fds: impl IntoIterator<Item = F>) -> Result<Self, Error> {
        // Taken in full first, so that all are closed whatever happens.
        let fds: Vec<OwnedFd> = fds.into_iter().map(Into::into).collect();
        let mut seen = HashSet::with_capacity(fds.len());
        let mut members = Vec::with_capacity(fds.len());
        let mut group_addr = None;
        for (index, fd) in fds.into_iter().enumerate() {
            let number = sys::number(&fd);
            let adopted = adopt::member(fd, S::KIND)?;
            let refuse = |why: String| {
                Err(Error::invalid(
                    format!("cannot adopt descriptor {number} into a group"),
                    why,
                )
                .at(adopted.addr))
            };
            let addr = *group_addr.get_or_insert(adopted.addr);
            if addr != adopted.addr {
                return refuse(format!(
                    "it is bound to {}, and the group is on {addr}",
                    adopted.addr
                ));
            }
            if sys::identity(sys::borrow(&adopted.fd))
                .is_some_and(|identity| !seen.insert(identity))
            {
                return refuse("it is the same socket as one before it".to_owned());
            }
            members.push(Member::new(adopted.fd.into(), index));
        }
        match group_addr {
            Some(addr) => {
                let options = members.first().map(Options::like).unwrap_or_default();
                Ok(Self::new(addr, members, Spread::Kernel, false, options))
            }
            None => Err(Error::invalid(
                "cannot adopt a group",
                "there is no descriptor",
            )),
        }
    }

    /// Takes the group that another process of this user hands over.
    ///
    /// [`Roster::hand_over`] is the other side. Nothing is closed, so nothing is lost: both processes
    /// have the same sockets, and each connection is accepted by one of them, until the other stops.
    /// The members have the numbers that they had there, in the places that they have; the kernel
    /// goes on steering as it did until this process steers. Dropping a member closes it.
    ///
    /// `from` is a UNIX stream in blocking mode; each wait on it is bounded by its own timeouts.
    ///
    /// # Errors
    ///
    /// [`PermissionDenied`](std::io::ErrorKind::PermissionDenied) where the other process is another
    /// user's. [`InvalidData`](std::io::ErrorKind::InvalidData) where it sends something else, or
    /// speaks another version. [`InvalidInput`](std::io::ErrorKind::InvalidInput) for what is no
    /// group of this kind of socket, and for a stream that does not block.
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) where no descriptors can be passed. All that
    /// came is closed then, and the other process goes on.
    pub fn receive(from: &impl AsFd) -> Result<Self, Error> {
        let parcel = handover::receive(from, S::KIND).inspect_err(trace::refused)?;
        let addr = parcel.addr;
        let options = parcel
            .members
            .first()
            .map(|(_, fd)| Options::like(fd))
            .unwrap_or_default();
        let roster = Roster::new(addr, 0, Spread::Kernel, true, options);
        let mut members = Vec::with_capacity(parcel.members.len());
        for (number, fd) in parcel.members {
            roster.shared().table().add(number, sys::borrow(&fd));
            members.push(Member::inherited(fd.into(), number));
        }
        members.sort_by_key(Member::index);
        trace::received(S::KIND, addr, members.len());
        Ok(Self::of(addr, members, Spread::Kernel, roster))
    }

    /// The address that all members share.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether its members have a queue each, or one together; never [`Spread::Best`].
    #[must_use]
    pub fn spread(&self) -> Spread {
        self.spread
    }

    /// The number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Never true: a group has at least one member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Changes how the kernel chooses the member, at once and without loss.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where the steering does not fit the
    /// group: weights for another number of members, a program of no or more than 4,096
    /// instructions or one that the kernel refuses, connection ids of TCP, and what needs indices
    /// where the group was adopted or joined others.
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) where the system or the protocol cannot be
    /// steered.
    pub fn steer(&self, steering: &Steering) -> Result<(), Error> {
        self.roster
            .steer_all(&self.members, steering)
            .inspect_err(trace::refused)
    }

    /// The table by which the group is steered, and its members come and go, when they have gone to
    /// their threads.
    #[must_use]
    pub fn roster(&self) -> Roster<S> {
        self.roster.remember(&self.members);
        self.roster.clone()
    }

    /// The members, by index.
    pub fn iter(&self) -> slice::Iter<'_, Member<S>> {
        self.members.iter()
    }
}

impl<S: Socket> IntoIterator for Group<S> {
    type Item = Member<S>;
    type IntoIter = vec::IntoIter<Member<S>>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.into_iter()
    }
}

impl<'a, S: Socket> IntoIterator for &'a Group<S> {
    type Item = &'a Member<S>;
    type IntoIter = slice::Iter<'a, Member<S>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
