//! Opens one socket: the order of the system calls, and the sentence for each that is refused.

pub(crate) mod addr;
pub(crate) mod adopt;
mod both;
mod call;
mod hook;
mod likeness;
mod meant;
mod options;
mod refusal;
mod text;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use crate::error::Error;
use crate::steering::Steering;
use crate::sys::{self, Kind, Socket, meet};
use addr::Place;
pub use addr::{Family, ToAddr};
pub(crate) use both::both;
pub(crate) use call::Call;
use hook::Spoilt;
use likeness::Likeness;
pub use options::Options;

/// What is the same for every socket on one address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'a> {
    options: &'a Options,
    call: Call,
    place: Place,
}

/// A socket that has its options and no address yet.
#[derive(Debug)]
#[must_use = "it is in no group before it enters"]
pub(crate) struct Prepared<'a> {
    opening: Opening<'a>,
    purpose: Purpose,
    socket: Socket,
    addr: SocketAddr,
    /// The port must be new, and is released to others after bind.
    alone: bool,
}

/// What a socket is opened for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// To share the port with the sockets that are there.
    Share,
    /// To be the first of a new group.
    Found,
    /// To be the member of that index, in a group of so many.
    Join(usize, usize),
    /// To be the only socket of a group, on a system that cannot share.
    Alone,
    /// To connect.
    Dial,
}

impl<'a> Opening<'a> {
    /// Refuses an address, or an option, that means nothing to the call.
    pub(crate) fn new(options: &'a Options, call: Call, addr: impl ToAddr) -> Result<Self, Error> {
        let target = addr.target()?;
        let place = match (&options.like, target.exact()) {
            (Some(like), Some(addr)) => like.place(addr),
            _ => target.place(options.family)?,
        };
        Self::on(options, call, place)
    }

    pub(crate) fn on(options: &'a Options, call: Call, place: Place) -> Result<Self, Error> {
        let addr = place.addr;
        options.check(call).map_err(|error| error.at(addr))?;
        let steers = !matches!(options.steering, Steering::Hash);
        if call.kind() == Kind::Tcp || steers {
            if let Some(what) = addr::of_many(addr.ip()) {
                let (cannot, why) = match call.kind() {
                    Kind::Tcp => ("use", format!("{what}, and TCP is between two sockets")),
                    Kind::Udp => (
                        "steer",
                        format!("{what}, and every member gets what arrives"),
                    ),
                };
                let error = Error::invalid(format!("cannot {cannot} {addr}"), why);
                return Err(error.at(addr));
            }
        }
        Ok(Self {
            options,
            call,
            place,
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.place.addr
    }

    /// Whether a socket may be bound to it: there, or at every IPv4 address without IPv6.
    pub(crate) fn may_be(&self, addr: SocketAddr) -> bool {
        let Place {
            addr: own, or_v4, ..
        } = self.place;
        own == addr || or_v4 && addr == (std::net::Ipv4Addr::UNSPECIFIED, own.port()).into()
    }

    /// Where the processes of this user meet that have a group on this address: one place for each group that
    /// the kernel tells apart.
    pub(crate) fn meeting_place(&self) -> meet::Place {
        let Place { addr, only_v6, .. } = &self.place;
        let only = if *only_v6 == Some(true) { "6" } else { "" };
        let device = self.options.device.as_deref().unwrap_or_default();
        let (kind, uid) = (self.call.kind().name(), sys::user());
        // gVisor takes an abstract address for a path, and refuses one that ends like a folder's.
        let name = format!("reuseport/{uid}/{kind}{only}/{device}/{addr}").into_bytes();
        meet::Place::new(name, self.options.rendezvous.as_deref())
    }

    /// Whether all that is in the way of a new group here are sockets on other addresses of which this process
    /// has a descriptor.
    pub(crate) fn is_beside_own(&self) -> bool {
        let Place { addr, only_v6, .. } = &self.place;
        sys::holds_all(self.call.kind(), addr, *only_v6 == Some(true))
    }

    /// The same, on the address that its first socket got.
    pub(crate) fn settled(&self, socket: &Socket) -> Result<Self, Error> {
        if self.place.addr.port() != 0 && !self.place.or_v4 {
            return Ok(self.at(self.place.addr));
        }
        let addr = socket.local_addr().map_err(|error| {
            Error::system("cannot tell the address of a new socket", error).at(self.place.addr)
        })?;
        Ok(self.at(addr))
    }

    fn at(&self, addr: SocketAddr) -> Self {
        let only_v6 = self.place.only_v6.filter(|_| addr.is_ipv6());
        Self {
            place: Place {
                addr,
                only_v6,
                or_v4: false,
            },
            ..*self
        }
    }

    /// Opens a socket: [`prepare`](Self::prepare) and [`enter`](Prepared::enter).
    pub(crate) fn open(&self, purpose: Purpose, nonblocking: bool) -> Result<Socket, Error> {
        self.prepare(purpose, nonblocking)?.enter()
    }

    /// Makes a socket and sets its options; the hook of the caller runs here.
    ///
    /// Nothing arrives at the socket yet, and dropping it changes nothing for others.
    pub(crate) fn prepare(
        &self,
        purpose: Purpose,
        nonblocking: bool,
    ) -> Result<Prepared<'a>, Error> {
        // Before a socket is asked for, which such a system may refuse for other reasons.
        if sys::GROUP_LIMIT == 0 && !matches!(purpose, Purpose::Alone) {
            return Err(self.refused(purpose, sys::cannot_share()));
        }
        let like = self.options.like.as_ref();
        let protocol = like.and_then(Likeness::protocol);
        match Socket::of(self.call.kind(), &self.place.addr, nonblocking, protocol) {
            Ok(socket) => self.set_up(socket, purpose),
            Err(error) if self.place.or_v4 && sys::is_no_ipv6(&error) => {
                let v4 = (Ipv4Addr::UNSPECIFIED, self.place.addr.port()).into();
                self.at(v4).prepare(purpose, nonblocking)
            }
            Err(error) => {
                let why = sys::explain_socket(&error, &self.place.addr);
                let error = self.refused(purpose, error);
                Err(match why {
                    Some(why) => error.why(Some(why)),
                    None => error,
                })
            }
        }
    }

    fn set_up(&self, socket: Socket, purpose: Purpose) -> Result<Prepared<'a>, Error> {
        let Self {
            options,
            call,
            place: Place { addr, only_v6, .. },
        } = self;
        let kind = call.kind();
        let refused = |error| self.refused(purpose, error);
        // Of the addresses that a kernel hands out for port 0, a shared UDP socket's can be another
        // group's.
        let alone = match purpose {
            Purpose::Found => !options.overlaps,
            Purpose::Share => kind == Kind::Udp && addr.port() == 0,
            Purpose::Join(..) | Purpose::Alone | Purpose::Dial => false,
        };

        // A socket is of the namespace of the thread that makes it, whatever its siblings are of.
        let namespace = options.namespace;
        if namespace.is_some_and(|id| sys::namespace(socket.lend()).is_some_and(|own| own != id)) {
            let why = "this thread is in another network namespace than its group";
            return Err(self.invalid(purpose, why));
        }
        if let Some(only) = only_v6 {
            socket.set_only_v6(*only).map_err(refused)?;
        }
        if let Some(device) = &options.device {
            self.bind_device(&socket, device).map_err(|error| {
                refused(error).why(Some(format!(
                    "it cannot be restricted to device {device:?}"
                )))
            })?;
        }
        if let Some(like) = &options.like {
            like.give(&socket)
                .map_err(|(what, error)| refused(error).why(Some(what)))?;
        }
        sys::restartable(&socket, kind).map_err(refused)?;
        let addr = if alone {
            sys::claim(&socket, kind, addr).map_err(refused)?
        } else {
            if !matches!(purpose, Purpose::Alone) {
                sys::share(&socket).map_err(refused)?;
            }
            *addr
        };
        if let Some(hook) = &options.before_bind {
            let new = alone || matches!(purpose, Purpose::Alone);
            hook.run(&socket, kind, new)
                .map_err(|spoilt| match spoilt {
                    Spoilt::Failed(error) => {
                        refused(error).why(Some("the before_bind hook failed"))
                    }
                    Spoilt::Changed(why) => self.invalid(purpose, why),
                })?;
        }
        Ok(Prepared {
            opening: *self,
            purpose,
            socket,
            addr,
            alone,
        })
    }

    fn bind_device(&self, socket: &Socket, device: &str) -> io::Result<()> {
        if device.is_empty() || device.contains('\0') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "that is no name of a device",
            ));
        }
        sys::bind_device(socket, &self.place.addr, device)
    }
}

impl Prepared<'_> {
    /// For an option that only one call sets.
    pub(crate) fn lend(&self) -> sys::BorrowedFd<'_> {
        self.socket.lend()
    }

    /// Binds and listens: from here on the socket stands in the kernel's group.
    ///
    /// It calls nothing of the caller and waits for nothing, so it may be called under a lock.
    pub(crate) fn enter(self) -> Result<Socket, Error> {
        let Self {
            opening,
            purpose,
            socket,
            addr,
            alone,
        } = self;
        let refused = |error| opening.refused(purpose, error);
        socket.bind(&addr).map_err(refused)?;
        if opening.call.kind() == Kind::Tcp && !matches!(purpose, Purpose::Dial) {
            // The kernel cuts it to its own limit; a number below 0 would not mean the same
            // everywhere.
            socket
                .listen(opening.options.backlog.unwrap_or(u32::MAX))
                .map_err(refused)?;
        }
        if alone {
            sys::release(&socket).map_err(refused)?;
        }
        Ok(socket)
    }
}
