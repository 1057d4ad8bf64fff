use std::collections::HashSet;
use std::net::SocketAddr;
use std::{slice, vec};

use crate::error::Error;
use crate::open::{Options, adopt};
use crate::steering::{Spread, Steering};
use crate::sys::{self, OwnedFd};
use crate::trace;

mod balance;
mod balancer;
mod balancing;
mod canary;
mod cell;
mod count;
mod departures;
mod dial;
mod drain;
mod guarantee;
mod job;
mod leaving;
mod lend;
mod lent;
mod load;
mod member;
mod open;
mod program;
mod roster;
mod seating;
mod shared;
mod signal;
mod sock;
mod socket;
mod state;
mod stop;
mod sweep;
mod table;

pub use balancer::{Balance, Balancer, Engine};
pub use balancing::Balancing;
pub(crate) use count::{Remains, Seen, barrier, look};
pub use guarantee::{Drained, Guarantee};
pub use leaving::Leaving;
pub(crate) use lend::Lent;
pub use load::{Held, Load};
pub use member::Member;
pub(crate) use open::open;
pub use roster::Roster;
pub(crate) use shared::Shared;
pub(crate) use signal::{Key, Signal};
pub use socket::{Socket, local_addr};
pub(crate) use state::Stage;
pub(crate) use table::Id;

/// Sockets on one port that were opened together, before any of them serves.
///
/// [`Options::group`] and [`Options::packet_group`] open one; all its errors come from there, on
/// the calling thread, while the process still has its privileges. Its members are std's sockets,
/// in blocking mode, and each [enters its runtime](Member::attach) where it works; only those of a
/// generation of [one queue](crate::Generation#one-queue) do not block. Dropping the group closes the
/// members that are left.
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

impl<S: Socket> Group<S> {
    /// `new` says that the members stand in the kernel's group in this order, and no others do.
    fn new(
        addr: SocketAddr,
        members: Vec<Member<S>>,
        spread: Spread,
        new: bool,
        options: Options,
    ) -> Self {
        let roster = Roster::new(addr, spread, options);
        {
            let shared = roster.shared();
            let mut state = shared.state();
            state.table.reserve(members.len());
            for member in &members {
                state.add(member.number(), sys::borrow(member));
            }
            if !new {
                state.scramble();
            }
        }
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
    /// Their order becomes the members' [numbers](Member::number). They are put into blocking mode,
    /// which acts on everybody who has the same socket, and are no longer inherited by children.
    ///
    /// The kernel goes on choosing among them as it was told before, also by weights that a
    /// [`Balancer`](crate::Balancer) of a process which has died gave them, until this process tells it otherwise:
    /// [`steer`](Self::steer) does, and the first step of a `Balancer`.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{Group, ReusePort, Std};
    ///
    /// let first = Std::listen("localhost:0")?;
    /// let second = Std::listen(first.local_addr()?)?;
    /// let group = Group::<std::net::TcpListener>::adopt([first, second])?;
    /// assert_eq!(group.len(), 2);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where there is none, where one is no
    /// socket of this kind or does not share its port, where two are on different addresses or devices
    /// or in different network namespaces, or are one socket. All of them are closed then.
    pub fn adopt<F: Into<OwnedFd>>(fds: impl IntoIterator<Item = F>) -> Result<Self, Error> {
        // Taken in full first, so that all are closed whatever happens.
        let fds = fds.into_iter().map(Into::into).collect();
        Self::adopt_all(fds, false).inspect_err(trace::refused)
    }

    /// As [`adopt`](Self::adopt), of sockets that another process still uses: their mode is changed when they are
    /// taken.
    pub(crate) fn adopt_in_use(fds: Vec<OwnedFd>) -> Result<Self, Error> {
        Self::adopt_all(fds, true)
    }

    fn adopt_all(fds: Vec<OwnedFd>, in_use: bool) -> Result<Self, Error> {
        let mut seen = HashSet::with_capacity(fds.len());
        let mut members = Vec::with_capacity(fds.len());
        let (mut group_addr, mut first) = (None, None);
        for (index, fd) in fds.into_iter().enumerate() {
            let number = sys::number(&fd);
            let adopted = adopt::member(fd, S::KIND, in_use)?;
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
            let fd = sys::borrow(&adopted.fd);
            let (namespace, interface) = (sys::namespace(fd), sys::interface(fd));
            let first = *first.get_or_insert((namespace, interface));
            if namespace != first.0 {
                return refuse(
                    "it is in another network namespace than those before it".to_owned(),
                );
            }
            if interface != first.1 {
                return refuse("it is for another device than those before it".to_owned());
            }
            if sys::identity(fd).is_some_and(|identity| !seen.insert(identity)) {
                return refuse("it is the same socket as one before it".to_owned());
            }
            let socket = adopted.fd.into();
            members.push(match in_use {
                true => Member::inherited(socket, index),
                false => Member::new(socket, index),
            });
        }
        match group_addr {
            Some(addr) => {
                let options = members.first().map(Options::like).transpose()?;
                let options = options.unwrap_or_default();
                let group = Self::new(addr, members, Spread::Kernel, false, options);
                group.roster.shared().state().told = seating::Told::Perhaps;
                Ok(group)
            }
            None => Err(Error::invalid(
                "cannot adopt a group",
                "there is no descriptor",
            )),
        }
    }

    /// The address that all members share.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// assert_ne!(group.local_addr().port(), 0);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether its members have a queue each, or one together; never [`Spread::Best`].
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{Options, Spread};
    ///
    /// let group = Options::new().spread(Spread::Queue).group("localhost:0", 2)?;
    /// assert_eq!(group.spread(), Spread::Queue);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn spread(&self) -> Spread {
        self.spread
    }

    /// The number of members.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// assert_eq!(group.len(), 2);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Never true: a group has at least one member.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// assert!(!group.is_empty());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Changes how the kernel chooses the member, at once and without loss.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Options, Steering};
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// group.steer(&Steering::Weights(vec![1, 3]))?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where the steering does not fit the
    /// group: weights for another number of members, a program of no or more than 4,096
    /// instructions or one that the kernel refuses, connection ids of TCP, and weights, processors
    /// and connection ids where the group was adopted or joined others.
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) where the system or the protocol cannot be
    /// steered.
    pub fn steer(&self, steering: &Steering) -> Result<(), Error> {
        self.roster.steer(steering)
    }

    /// The table by which the group is steered, and its members come and go, when they have gone to
    /// their threads.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let roster = group.roster();
    /// let workers: Vec<_> = group.into_iter().collect();
    /// let another = roster.join()?;
    /// assert_eq!(another.number(), workers.len());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn roster(&self) -> Roster<S> {
        self.roster.clone()
    }

    /// The members, by number.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// assert_eq!(group.iter().count(), 2);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
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
