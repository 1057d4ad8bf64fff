//! Reads an address that is written as a text.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};

use super::addr::Target;
use crate::sys;

/// What is wrong with a text; its words complete "cannot use "…" as an address: ".
#[derive(Debug)]
pub(super) enum Wrong<'a> {
    Empty,
    NoPort,
    Port(&'a str),
    PortTooLarge(&'a str),
    Brackets,
    Colons,
    Ip(&'a str),
    Name(&'a str),
    Zone(&'a str, io::Error),
    ZoneOfV4(&'a str),
}

impl Wrong<'_> {
    /// It is written well, and stands for nothing here.
    pub(super) fn is_of_this_machine(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Zone(..))
    }
}

impl fmt::Display for Wrong<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str(
                "it is empty; write \":80\" for every address, or \":0\" for a free port",
            ),
            Self::NoPort => f.write_str("it has no port, as in \"127.0.0.1:80\""),
            Self::Port(port) => write!(f, "{port:?} is no port number"),
            Self::PortTooLarge(port) => write!(f, "port {port} is larger than 65535"),
            Self::Brackets => f.write_str("its brackets do not match, as in \"[::1]:80\""),
            Self::Colons => f.write_str(
                "it has too many colons; IPv6 addresses stand in brackets, as in \"[::1]:80\"",
            ),
            Self::Ip(ip) => write!(f, "{ip:?} is no IPv6 address"),
            Self::Name(name) => write!(
                f,
                "{name:?} is a name, and only addresses are taken; Net::lookup finds the addresses of a name"
            ),
            Self::Zone(zone, error) => write!(f, "there is no network interface {zone:?}: {error}"),
            Self::ZoneOfV4(zone) => write!(
                f,
                "an IPv4 address has no zone, and this one has {zone:?}; Options::device restricts a socket to an interface"
            ),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Target, Wrong<'_>> {
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
