use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::{Error, sys};

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
/// | `"1.2.3.4:80"`, `"[::1]:80"`, `"[fe80::1%eth0]:80"`, `"[fe80::1%2]:80"` | the address, with
/// its zone |
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
    /// On a machine without IPv6, is every IPv4 address meant as well?
    pub(crate) or_v4: bool,
}

impl Target {
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
        parse(self).map_err(|why| {
            Error::invalid(
                format!("cannot use {self:?} as an address"),
                why.to_string(),
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

/// What is wrong with a text; its words complete "cannot use "…" as an address: ".
enum Wrong<'a> {
    Empty,
    NoPort,
    Port(&'a str),
    PortTooLarge(&'a str),
    Brackets,
    Colons,
    Ip(&'a str),
    Name(&'a str),
    Zone(&'a str, std::io::Error),
    ZoneOfV4(&'a str),
}

impl fmt::Display for Wrong<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => {
                f.write_str("it is empty; \":80\" is every address, and \":0\" a free port")
            }
            Self::NoPort => f.write_str("it has no port, as in \"127.0.0.1:80\""),
            Self::Port(port) => write!(f, "{port:?} is no port number"),
            Self::PortTooLarge(port) => write!(f, "port {port} is larger than 65535"),
            Self::Brackets => f.write_str("its brackets do not match, as in \"[::1]:80\""),
            Self::Colons => f.write_str(
                "it has too many colons; IPv6 addresses stand in brackets, as in \"[::1]:80\"",
            ),
            Self::Ip(ip) => write!(f, "{ip:?} is no IPv6 address"),
            Self::Name(name) => {
                write!(
                    f,
                    "{name:?} is a name, and only addresses are taken; Net::lookup finds the addresses of a name"
                )
            }
            Self::Zone(zone, error) => write!(f, "there is no network interface {zone:?}: {error}"),
            Self::ZoneOfV4(zone) => {
                write!(f, "an IPv4 address has no zone, and this one has {zone:?}")
            }
        }
    }
}

fn parse(text: &str) -> Result<Target, Wrong<'_>> {
    if text.is_empty() {
        return Err(Wrong::Empty);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, port) = rest.split_once(']').ok_or(Wrong::Brackets)?;
        let port = parse_port(port.strip_prefix(':').ok_or(Wrong::NoPort)?)?;
        let (ip, zone) = inside
            .split_once('%')
            .map_or((inside, None), |(ip, zone)| (ip, Some(zone)));
        let ip: Ipv6Addr = ip.parse().map_err(|_| Wrong::Ip(ip))?;
        let scope = zone.map_or(Ok(0), parse_zone)?;
        return Ok(Target::Exact(SocketAddrV6::new(ip, port, 0, scope).into()));
    }
    let (host, port) = text.rsplit_once(':').ok_or(Wrong::NoPort)?;
    if host.contains(':') {
        return Err(Wrong::Colons);
    }
    let port = parse_port(port)?;
    if host.is_empty() {
        return Ok(Target::Every(port));
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(Target::Localhost(port));
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Target::Exact((ip, port).into()));
    }
    match host.split_once('%') {
        Some((ip, zone)) if ip.parse::<Ipv4Addr>().is_ok() => Err(Wrong::ZoneOfV4(zone)),
        _ if host.contains(['[', ']']) => Err(Wrong::Brackets),
        _ => Err(Wrong::Name(host)),
    }
}

fn parse_port(text: &str) -> Result<u16, Wrong<'_>> {
    if text.is_empty() {
        return Err(Wrong::NoPort);
    }
    // `parse` would take "+80".
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Wrong::Port(text));
    }
    text.parse().map_err(|_| Wrong::PortTooLarge(text))
}

/// An interface's name, or its index in digits (RFC 4007, section 11.2).
fn parse_zone(text: &str) -> Result<u32, Wrong<'_>> {
    match sys::zone(text) {
        Ok(index) => Ok(index),
        Err(error) => text
            .parse()
            .ok()
            .filter(|&index| index != 0)
            .ok_or(Wrong::Zone(text, error)),
    }
}
