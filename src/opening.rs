//! Opens one socket: the order of the system calls, and the sentence for each that is refused.

use std::io;
use std::net::SocketAddr;

use crate::addr::Place;
use crate::sys::{self, Asked, Kind, Socket};
use crate::{Error, Options, Steering, ToAddr};

/// What is the same for every socket on one address.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    options: &'a Options,
    kind: Kind,
    place: Place,
}

/// What a socket is opened for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// To share the port with whoever is there.
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
    pub(crate) fn new(options: &'a Options, kind: Kind, addr: impl ToAddr) -> Result<Self, Error> {
        Ok(Self::on(
            options,
            kind,
            addr.target()?.place(options.family)?,
        ))
    }

    pub(crate) fn on(options: &'a Options, kind: Kind, place: Place) -> Self {
        Self {
            options,
            kind,
            place,
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.place.addr
    }

    /// Is this where a socket comes to stand: there, or at every IPv4 address without IPv6?
    pub(crate) fn may_be(&self, addr: SocketAddr) -> bool {
        let Place {
            addr: own, or_v4, ..
        } = self.place;
        own == addr || or_v4 && addr == (std::net::Ipv4Addr::UNSPECIFIED, own.port()).into()
    }

    /// What a group on this address is called among the processes of this user: one name for each
    /// group that the kernel tells apart.
    pub(crate) fn name(&self) -> Vec<u8> {
        let Place { addr, only_v6, .. } = &self.place;
        let only = if *only_v6 == Some(true) { "6" } else { "" };
        let device = self.options.device.as_deref().unwrap_or_default();
        let (kind, uid) = (self.kind.name(), sys::user());
        format!("reuseport/{uid}/{kind}{only}/{addr}/{device}").into_bytes()
    }

    /// A socket that joins others must not replace the program of their group.
    pub(crate) fn check_unsteered(&self) -> Result<(), Error> {
        if matches!(self.options.steering, Steering::Hash) {
            return Ok(());
        }
        let addr = self.place.addr;
        let why = "Options::steering is for groups (Options::group)";
        Err(Error::invalid(format!("cannot steer {addr}"), why).at(addr))
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
        Self::on(
            self.options,
            self.kind,
            Place {
                addr,
                only_v6,
                or_v4: false,
            },
        )
    }

    pub(crate) fn open(&self, purpose: Purpose, nonblocking: bool) -> Result<Socket, Error> {
        // Before a socket is asked for, which such a system may refuse for other reasons.
        if sys::GROUP_LIMIT == 0 && !matches!(purpose, Purpose::Alone) {
            return Err(self.refused(purpose, sys::cannot_share()));
        }
        match Socket::new(self.kind, &self.place.addr, nonblocking) {
            Ok(socket) => self.set_up(socket, purpose),
            Err(error) if self.place.or_v4 && sys::is_no_ipv6(&error) => {
                let v4 = (std::net::Ipv4Addr::UNSPECIFIED, self.place.addr.port()).into();
                self.at(v4).open(purpose, nonblocking)
            }
            Err(error) => Err(self.refused(purpose, error)),
        }
    }

    fn set_up(&self, socket: Socket, purpose: Purpose) -> Result<Socket, Error> {
        let Self {
            options,
            kind,
            place: Place { addr, only_v6, .. },
        } = self;
        let refused = |error| self.refused(purpose, error);
        // Of the addresses that a kernel hands out for port 0, a shared UDP socket's can be another
        // group's.
        let alone = match purpose {
            Purpose::Found => true,
            Purpose::Share => *kind == Kind::Udp && addr.port() == 0,
            Purpose::Join(..) | Purpose::Alone | Purpose::Dial => false,
        };

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
        sys::restartable(&socket, *kind).map_err(refused)?;
        let addr = if alone {
            sys::claim(&socket, *kind, addr).map_err(refused)?
        } else {
            if !matches!(purpose, Purpose::Alone) {
                sys::share(&socket).map_err(refused)?;
            }
            *addr
        };
        if let Some(hook) = &options.before_bind {
            hook(socket.lend())
                .map_err(|error| refused(error).why(Some("the before_bind hook failed")))?;
        }
        socket.bind(&addr).map_err(refused)?;
        if *kind == Kind::Tcp && !matches!(purpose, Purpose::Dial) {
            // The kernel cuts it to its own limit; a number below 0 would not mean the same
            // everywhere.
            socket
                .listen(options.backlog.unwrap_or(u32::MAX))
                .map_err(refused)?;
        }
        if alone {
            sys::release(&socket).map_err(refused)?;
        }
        Ok(socket)
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

    /// The whole sentence for a system call that failed.
    pub(crate) fn refused(&self, purpose: Purpose, error: io::Error) -> Error {
        let addr = self.place.addr;
        let what = match purpose {
            Purpose::Share | Purpose::Join(0, _) => format!("cannot share {addr}"),
            Purpose::Found | Purpose::Alone => format!("cannot open a new group on {addr}"),
            Purpose::Join(index, n) => format!("cannot open member {} of {n} on {addr}", index + 1),
            Purpose::Dial => format!("cannot dial from {addr}"),
        };
        let asked = Asked {
            only_v6: self.place.only_v6 == Some(true),
            new: matches!(purpose, Purpose::Found | Purpose::Alone),
        };
        let blame = match addr.port() {
            0 => None,
            _ => sys::blame(self.kind, &addr, asked, &error),
        };
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse if addr.port() == 0 => Some("no port is free for it"),
            io::ErrorKind::AddrInUse if asked.new => Some("somebody holds it already"),
            io::ErrorKind::AddrInUse => Some("its holder does not share it with this user"),
            _ => sys::reason(&error, &addr),
        };
        let kind = if sys::is_unsupported(&error) {
            io::ErrorKind::Unsupported
        } else {
            error.kind()
        };
        let error = Error::system(what, error).at(addr).with_kind(kind);
        match blame {
            Some(blame) => error.held_by(blame.holder).why(Some(blame.why)),
            None => error.why(reason),
        }
    }
}
