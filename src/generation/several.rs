//! Several addresses that one server has: opened as one generation, and taken over together or not at all.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use super::joint::Joint;
use super::open::open;
use super::{Generation, Handle};
use crate::error::Error;
use crate::group::{Group, Socket};
use crate::open::{Call, Opening, Options, ToAddr, addr::Target};
use crate::sys::{self, Holder, Kind, meet::Place};
use crate::trace;

/// An address that a server wants, for [`Generation::open`]: with how many members, and with which options.
///
/// [`Options::want`] and [`Options::want_packet`] make one. It opens nothing by itself.
///
/// ```
/// use reuseport::{Options, Wanted};
///
/// let http: Wanted<std::net::TcpListener> = Options::new().want("[::]:80", 2);
/// ```
#[derive(Clone, Debug)]
#[must_use = "it opens nothing by itself"]
pub struct Wanted<S> {
    options: Options,
    target: Result<Target, Error>,
    n: usize,
    socket: std::marker::PhantomData<fn() -> S>,
}

/// The addresses that [`Generation::open`] opens: a tuple of up to six [`Wanted`], or a `Vec` of them.
pub trait Wants: sealed::Wants {
    /// A group for each, in the same order.
    type Groups;

    #[doc(hidden)]
    fn open(self) -> Result<(Self::Groups, Generation), Error>;
}

mod sealed {
    pub trait Wants {}
}

impl Options {
    /// An address for the TCP listeners of a server that has several: see [`Generation::open`].
    ///
    /// ```
    /// use reuseport::Options;
    ///
    /// let https = Options::new().backlog(1024).want("[::]:443", 4);
    /// ```
    pub fn want(&self, addr: impl ToAddr, n: usize) -> Wanted<TcpListener> {
        Wanted::new(self, addr, n)
    }

    /// An address for the UDP sockets of a server that has several: see [`Generation::open`].
    ///
    /// ```
    /// use reuseport::Options;
    ///
    /// let quic = Options::new().want_packet("[::]:443", 4);
    /// ```
    pub fn want_packet(&self, addr: impl ToAddr, n: usize) -> Wanted<UdpSocket> {
        Wanted::new(self, addr, n)
    }
}

impl Generation {
    /// Opens all addresses of a server, as one generation: they are taken over together, or none is.
    ///
    /// All are found, and lent by the process that serves, before this returns; if one is refused, all are given
    /// back, and the process that serves goes on as if nothing had been. Then
    /// [`take_over`](Self::take_over), or the first poll of [`shutdown`](Self::shutdown), brings this process what
    /// is new on each, and only when all predecessors have nothing left does the first of them hear that it is
    /// relieved. If one cannot be taken over, none is. All futures, [`stop`](Self::stop) and
    /// [`outcome`](Self::outcome) are of all addresses together.
    ///
    /// Two processes may name the addresses in different orders: they are opened in one order of their own, so
    /// that none waits for the other. An address that no process has yet is new, and serves from its opening on.
    /// Where two processes have served them, both are relieved. A process that names fewer than its predecessor
    /// relieves it of these only; the predecessor goes on with the others.
    ///
    /// One may overlap another, as `0.0.0.0:80` and `127.0.0.1:80` do: so a server moves to another address, of which
    /// the [guide](crate::guide), 34, says who gets what. The kernel gives a client to the more exact one.
    ///
    /// It blocks while the predecessors answer, up to 75 seconds for each. If a later one is refused, an address that
    /// was new is closed again, with what has come to it. [`predecessor`](Self::predecessor) names one of several,
    /// [`restart`](Self::restart) and [`successor_pid`](Self::successor_pid) go by one address, and
    /// [`farewell`](Self::farewell) begins when the first has another process. Dropping the generation before it takes
    /// over waits up to a second for each address.
    ///
    /// Whenever this process is killed, a predecessor that was opened in this way too either goes on with all
    /// addresses, or has been relieved of all. Of several that were opened one by one, some may have been relieved.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Generation, Options};
    ///
    /// let options = Options::new();
    /// let ((http, https, quic), generation) = Generation::open((
    ///     options.want("[::]:80", 2),
    ///     options.want("[::]:443", 2),
    ///     options.want_packet("[::]:443", 2),
    /// ))?;
    /// assert_eq!((http.len(), https.len(), quic.len()), (2, 2, 2));
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Options::generation`], of the first that fails; and [`InvalidInput`](std::io::ErrorKind::InvalidInput)
    /// where one is named twice, or there is none.
    pub fn open<W: Wants>(wanted: W) -> Result<(W::Groups, Self), Error> {
        wanted.open().inspect_err(trace::refused)
    }

    /// All of these as one.
    fn of(generations: Vec<Self>) -> Result<Self, Error> {
        let mut cores = Vec::with_capacity(generations.len());
        for generation in generations {
            cores.extend(generation.cores().cloned());
            // Nothing is given up: the cores have another handle from here on.
            if let Some(mut handle) = Arc::into_inner(generation.0) {
                handle.is_empty = true;
            }
        }
        if cores.len() > 1 {
            Joint::of(&cores);
        }
        let mut cores = cores.into_iter();
        let Some(first) = cores.next() else {
            return Err(Error::invalid(
                "cannot open a generation",
                "no address is wanted",
            ));
        };
        Ok(Self(Arc::new(Handle {
            first,
            others: cores.collect(),
            is_empty: false,
        })))
    }
}

impl<S: Socket> Wanted<S> {
    fn new(options: &Options, addr: impl ToAddr, n: usize) -> Self {
        Self {
            options: options.clone(),
            target: addr.target(),
            n,
            socket: std::marker::PhantomData,
        }
    }

    fn at(&self) -> Result<At, Error> {
        let call = Call::Generation(S::KIND);
        let opening = Opening::new(&self.options, call, self.target.clone()?)?;
        Ok(At {
            place: opening.meeting_place(),
            kind: S::KIND,
            addr: opening.addr(),
        })
    }

    fn open(&self) -> Result<(Group<S>, Generation), Error> {
        open(&self.options, self.target.clone()?, self.n)
    }
}

/// An address among several.
struct At {
    /// Where its processes meet, by which the addresses are told apart and put into order.
    place: Place,
    kind: Kind,
    addr: SocketAddr,
}

impl At {
    /// Whether the one may be in the way of the other: they are on one port.
    fn is_beside(&self, other: &Self) -> bool {
        (self.kind, self.addr.port()) == (other.kind, other.addr.port()) && self.addr != other.addr
    }

    /// Whether a socket is on this very address.
    fn is_held(&self) -> bool {
        sys::receivers(self.kind, &self.addr).is_ok_and(|sockets| !sockets.is_empty())
    }
}

/// Opens each address, in an order that is the same in all processes.
///
/// A new address that is in the way of another, as `0.0.0.0:80` of `127.0.0.1:80`, comes last: beside that it can be
/// opened when this process has that.
fn in_order(all: &[At], mut open: impl FnMut(usize) -> Result<(), Error>) -> Result<(), Error> {
    let mut late = Vec::new();
    for (at, its) in order(all)? {
        match open(at) {
            Err(error)
                if error.holder() == Some(Holder::Group)
                    && all.iter().any(|other| its.is_beside(other)) =>
            {
                late.push((at, its));
            }
            opened => opened?,
        }
    }
    // The one that is in the way of the others says why.
    late.sort_by_cached_key(|(_, its)| !its.is_held());
    late.into_iter().try_for_each(|(at, _)| open(at))
}

/// In which order they are opened: the same in all processes.
fn order(all: &[At]) -> Result<Vec<(usize, &At)>, Error> {
    let mut order: Vec<(usize, &At)> = all.iter().enumerate().collect();
    order.sort_by_key(|(_, at)| &at.place);
    let mut pairs = order.iter().zip(order.iter().skip(1));
    if let Some((_, (_, twice))) = pairs.find(|((_, one), (_, next))| one.place == next.place) {
        let what = "cannot open a generation of several addresses";
        let why = format!("{} {} is named twice", twice.kind.name(), twice.addr);
        return Err(Error::invalid(what, why));
    }
    Ok(order)
}

impl<S: Socket> sealed::Wants for Vec<Wanted<S>> {}

impl<S: Socket> Wants for Vec<Wanted<S>> {
    type Groups = Vec<Group<S>>;

    fn open(self) -> Result<(Self::Groups, Generation), Error> {
        let all: Result<Vec<_>, Error> = self.iter().map(Wanted::at).collect();
        let mut groups: Vec<(usize, Group<S>)> = Vec::with_capacity(self.len());
        // Dropped before the groups, where one is refused.
        let mut generations = Vec::with_capacity(self.len());
        in_order(&all?, |at| {
            if let Some(wanted) = self.get(at) {
                let (group, generation) = wanted.open()?;
                groups.push((at, group));
                generations.push(generation);
            }
            Ok(())
        })?;
        groups.sort_by_key(|(at, _)| *at);
        let generation = Generation::of(generations)?;
        Ok((
            groups.into_iter().map(|(_, group)| group).collect(),
            generation,
        ))
    }
}

macro_rules! tuples {
    ($($at:literal $S:ident $wanted:ident $group:ident),*) => {
        impl<$($S: Socket),*> sealed::Wants for ($(Wanted<$S>,)*) {}

        impl<$($S: Socket),*> Wants for ($(Wanted<$S>,)*) {
            type Groups = ($(Group<$S>,)*);

            fn open(self) -> Result<(Self::Groups, Generation), Error> {
                let ($($wanted,)*) = self;
                $(let mut $group = None;)*
                // Dropped before the groups, where one is refused.
                let mut generations = Vec::new();
                in_order(&[$($wanted.at()?),*], |at| {
                    $(if at == $at {
                        let (group, generation) = $wanted.open()?;
                        $group = Some(group);
                        generations.push(generation);
                    })*
                    Ok(())
                })?;
                let generation = Generation::of(generations)?;
                match ($($group,)*) {
                    ($(Some($group),)*) => Ok((($($group,)*), generation)),
                    _ => Err(Error::invalid("cannot open a generation", "no address is wanted")),
                }
            }
        }
    };
}

tuples!(0 A a ga);
tuples!(0 A a ga, 1 B b gb);
tuples!(0 A a ga, 1 B b gb, 2 C c gc);
tuples!(0 A a ga, 1 B b gb, 2 C c gc, 3 D d gd);
tuples!(0 A a ga, 1 B b gb, 2 C c gc, 3 D d gd, 4 E e ge);
tuples!(0 A a ga, 1 B b gb, 2 C c gc, 3 D d gd, 4 E e ge, 5 F f gf);
