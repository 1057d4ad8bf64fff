use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::{meant, text};
use crate::error::Error;
use crate::sys;

/// Which IP versions a socket takes.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use reuseport::{Family, Options, Std};
///
/// // Go's Listen("tcp4", ":0")
/// let listener = Options::new().family(Family::V4).listen::<Std>(":0")?;
/// assert!(listener.local_addr()?.is_ipv4());
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// What the address says; `":80"` and `"[::]:80"` take both. Go's "tcp" and "udp".
    ///
    /// FreeBSD, DragonFly and OpenBSD cannot share a socket that takes both: there `":80"` is IPv4
    /// only, and `"[::]:80"` an error.
    #[default]
    Any,
    /// IPv4 only. Go's "tcp4" and "udp4".
    V4,
    /// IPv6 only, so that another socket can have the same port for IPv4. Go's "tcp6" and "udp6".
    V6,
}

/// An address that needs no name server.
///
/// | written | means |
/// |---|---|
/// | `SocketAddr`, `SocketAddrV4`, `SocketAddrV6`, `(ip, port)` | itself |
/// | `"1.2.3.4:80"`, `"[::1]:80"` | the address |
/// | `"[fe80::1%eth0]:80"`, `"[fe80::1%2]:80"` | the address on one interface, by its name or number |
/// | `"localhost:80"` | `127.0.0.1:80`, or `[::1]:80` for [`Family::V6`]; nothing is looked up |
/// | `":80"` | every address of the machine, IPv4 and IPv6, as the [`Family`] allows |
///
/// Port 0 is a free port of the kernel's choice.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use reuseport::{ReusePort, Std};
///
/// let first = Std::listen(([127, 0, 0, 1], 0))?;
/// let second = Std::listen(first.local_addr()?)?;
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// An IPv4 address in IPv6 form (`[::ffff:1.2.3.4]:80`) is the IPv4 address. Any other name than
/// "localhost" is an error: look it up with [`Net::lookup`](crate::Net::lookup). A name can have
/// many addresses, and a listener has one.
///
/// The error for a text that is no address says what was written instead and, where that is clear,
/// what to write:
///
/// ```
/// # #[cfg(feature = "std")] {
/// use reuseport::{ReusePort, Std};
///
/// let error = Std::listen("8080").unwrap_err();
/// assert_eq!(error.to_string(), "cannot use \"8080\" as an address: it is a port without a colon; write \":8080\"");
/// # }
/// ```
pub trait ToAddr: sealed::ToAddr {}

impl<T: sealed::ToAddr + ?Sized> ToAddr for T {}

pub(crate) mod sealed {
    use super::{Error, Target};

    pub trait ToAddr {
        fn target(&self) -> Result<Target, Error>;
    }
}

impl sealed::ToAddr for Target {
    fn target(&self) -> Result<Target, Error> {
        Ok(*self)
    }
}

/// An address as it was asked for, before the family is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Exact(SocketAddr),
    Localhost(u16),
    Every(u16),
}

/// An address as it is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) addr: SocketAddr,
    /// IPV6_V6ONLY of a wildcard, always set, so that net.ipv6.bindv6only decides nothing. Any
    /// other IPv6 address takes IPv6 only (kernel: __inet6_bind).
    pub(crate) only_v6: Option<bool>,
    /// On a machine without IPv6, every IPv4 address is meant.
    pub(crate) or_v4: bool,
}

impl Target {
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Exact(addr) => addr.port(),
            Self::Localhost(port) | Self::Every(port) => port,
        }
    }

    pub(crate) fn with_port(mut self, port: u16) -> Self {
        match &mut self {
            Self::Exact(addr) => addr.set_port(port),
            Self::Localhost(own) | Self::Every(own) => *own = port,
        }
        self
    }

    /// The one address that a socket of this family binds to.
    pub(crate) fn place(self, family: Family) -> Result<Place, Error> {
        let v4 = |ip, port| Place {
            addr: SocketAddr::from((ip, port)),
            only_v6: None,
            or_v4: false,
        };
        let v6 = |addr: SocketAddrV6, or_v4| Place {
            addr: addr.into(),
            only_v6: addr
                .ip()
                .is_unspecified()
                .then_some(family == Family::V6 || !sys::DUAL_STACK),
            or_v4,
        };
        let port = |ip, port| SocketAddrV6::new(ip, port, 0, 0);
        match (self, family) {
            (Self::Exact(SocketAddr::V6(addr)), _) if addr.ip().to_ipv4_mapped().is_some() => {
                Self::Exact((addr.ip().to_canonical(), addr.port()).into()).place(family)
            }
            (Self::Exact(SocketAddr::V4(addr)), Family::Any | Family::V4) => Ok(v4(*addr.ip(), addr.port())),
            (Self::Exact(SocketAddr::V6(addr)), Family::V6) => Ok(v6(addr, false)),
            (Self::Exact(SocketAddr::V6(addr)), Family::Any) if sys::DUAL_STACK || !addr.ip().is_unspecified() => {
                Ok(v6(addr, false))
            }
            (Self::Exact(addr), Family::Any) => Err(Error::refused(
                std::io::ErrorKind::Unsupported,
                format!("cannot share {addr}"),
                "this system does not balance sockets that take IPv4 and IPv6; choose Family::V6 or an IPv4 address",
            )
            .at(addr)),
            (Self::Exact(addr), Family::V4) => Err(Self::mismatch(addr, "IPv6", "Family::V4")),
            (Self::Exact(addr), Family::V6) => Err(Self::mismatch(addr, "IPv4", "Family::V6")),
            (Self::Localhost(number), Family::V6) => Ok(v6(port(Ipv6Addr::LOCALHOST, number), false)),
            (Self::Localhost(number), _) => Ok(v4(Ipv4Addr::LOCALHOST, number)),
            (Self::Every(number), Family::V6) => Ok(v6(port(Ipv6Addr::UNSPECIFIED, number), false)),
            (Self::Every(number), Family::Any) if sys::DUAL_STACK => Ok(v6(port(Ipv6Addr::UNSPECIFIED, number), true)),
            (Self::Every(number), _) => Ok(v4(Ipv4Addr::UNSPECIFIED, number)),
        }
    }

    fn mismatch(addr: SocketAddr, is: &str, asked: &str) -> Error {
        let why = format!("it is an {is} address, and {asked} was asked for");
        Error::invalid(format!("cannot use {addr}"), why).at(addr)
    }
}

/// What an address is that stands for more than one receiver.
pub(crate) fn of_many(ip: IpAddr) -> Option<&'static str> {
    let ip = ip.to_canonical();
    match ip {
        _ if ip.is_multicast() => Some("it is a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("it is a broadcast address"),
        // A network's own ends with as many ones as its hosts have bits, of which there are two at
        // least: RFC 3021 gives the networks with one none.
        IpAddr::V4(v4) if v4.to_bits() & 3 == 3 && sys::is_broadcast(v4) => {
            Some("it is the broadcast address of a network")
        }
        _ => None,
    }
}

impl sealed::ToAddr for SocketAddr {
    fn target(&self) -> Result<Target, Error> {
        Ok(Target::Exact(*self))
    }
}

macro_rules! exact {
    ($($type:ty),*) => {
        $(impl sealed::ToAddr for $type {
            fn target(&self) -> Result<Target, Error> {
                Ok(Target::Exact(SocketAddr::from(*self)))
            }
        })*
    };
}

exact!(
    SocketAddrV4,
    SocketAddrV6,
    (IpAddr, u16),
    (Ipv4Addr, u16),
    (Ipv6Addr, u16),
    ([u8; 4], u16),
    ([u16; 8], u16)
);

impl sealed::ToAddr for str {
    fn target(&self) -> Result<Target, Error> {
        text::parse(self).map_err(|wrong| {
            Error::invalid(
                format!("cannot use {self:?} as an address"),
                meant::explain(self, &wrong),
            )
        })
    }
}

impl sealed::ToAddr for String {
    fn target(&self) -> Result<Target, Error> {
        self.as_str().target()
    }
}

impl<T: sealed::ToAddr + ?Sized> sealed::ToAddr for &T {
    fn target(&self) -> Result<Target, Error> {
        (**self).target()
    }
}
