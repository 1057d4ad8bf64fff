//! What a refusal of socket or bind means, where the kernel's words leave it open.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::sys::zone;

/// The reason of bind(2), from what every user may read.
pub(crate) fn explain(
    error: &io::Error,
    addr: &SocketAddr,
    device: Option<&str>,
) -> Option<String> {
    match (error.raw_os_error()?, addr.ip()) {
        (libc::EADDRNOTAVAIL, IpAddr::V6(ip)) => unavailable(ip, addr, device),
        (libc::EINVAL, IpAddr::V6(ip)) if ip.is_multicast() && zone_of(addr) == 0 => Some(
            "a multicast address of a link needs a zone, as in [ff02::1%eth0]:80".to_owned(),
        ),
        (libc::ENODEV, _) if zone_of(addr) != 0 => {
            Some(format!("there is no network interface {}", zone_of(addr)))
        }
        (libc::EACCES, _) if !is_privileged(addr.port()) => Some(
            "a security module or a sandbox keeps this process from it (SELinux, AppArmor, Landlock)"
                .to_owned(),
        ),
        _ => None,
    }
}

/// The reason of socket(2).
pub(crate) fn explain_socket(error: &io::Error, addr: &SocketAddr) -> Option<String> {
    let family = if addr.is_ipv6() { "IPv6" } else { "IPv4" };
    // IPv4 is in every kernel, and IPv6 where it has this table.
    let is_there = addr.is_ipv4() || Path::new("/proc/thread-self/net/if_inet6").exists();
    match error.raw_os_error()? {
        // seccomp(2) answers what the filter says; systemd's RestrictAddressFamilies= EAFNOSUPPORT.
        libc::EAFNOSUPPORT | libc::EPERM | libc::EACCES if is_there => Some(format!(
            "a sandbox keeps this process from {family} (as RestrictAddressFamilies= of systemd does)"
        )),
        _ => None,
    }
}

fn zone_of(addr: &SocketAddr) -> u32 {
    match addr {
        SocketAddr::V6(addr) => addr.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// Whether a port takes a privilege: below 1024, unless the machine says otherwise.
fn is_privileged(port: u16) -> bool {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first = first.ok().and_then(|text| text.trim().parse().ok());
    port != 0 && port < first.unwrap_or(1024)
}

/// An IPv6 address that some interface has, and that cannot be bound all the same (kernel:
/// __inet6_bind, ipv6_chk_addr_and_flags).
fn unavailable(ip: Ipv6Addr, addr: &SocketAddr, device: Option<&str>) -> Option<String> {
    let table = fs::read_to_string("/proc/thread-self/net/if_inet6").ok()?;
    let wanted = device.and_then(|name| zone(name).ok());
    let wanted = wanted.unwrap_or_else(|| zone_of(addr));
    let found: Vec<_> = table
        .lines()
        .filter_map(Interface::parse)
        .filter(|interface| interface.ip == ip)
        .collect();
    let here = found
        .iter()
        .find(|interface| wanted == 0 || interface.index == wanted);
    match (here, found.first()) {
        (Some(Interface { flags, name, .. }), _) if flags & Interface::FAILED != 0 => {
            Some(format!(
                "another machine beside {name} has it too (duplicate address detection failed)"
            ))
        }
        (Some(Interface { flags, name, .. }), _) if flags & Interface::TENTATIVE != 0 => {
            Some(format!(
                "{name} has it, but is still asking whether another machine has it too: it is \
                 tentative for a second or two"
            ))
        }
        (None, Some(Interface { name, .. })) => Some(format!(
            "{name} has it, and not the interface that was asked for"
        )),
        _ => None,
    }
}

/// A line of /proc/net/if_inet6: address, index, prefix, scope and flags in hexadecimal digits, and
/// the name (kernel: if6_seq_show).
struct Interface<'a> {
    ip: Ipv6Addr,
    index: u32,
    flags: u32,
    name: &'a str,
}

impl<'a> Interface<'a> {
    // <linux/if_addr.h>: IFA_F_DADFAILED, IFA_F_TENTATIVE.
    const FAILED: u32 = 0x08;
    const TENTATIVE: u32 = 0x40;

    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let hexadecimal = |text| u32::from_str_radix(text, 16).ok();
        let ip = u128::from_str_radix(fields.next()?, 16).ok()?;
        let index = hexadecimal(fields.next()?)?;
        let flags = hexadecimal(fields.nth(2)?)?;
        Some(Self {
            ip: Ipv6Addr::from(ip),
            index,
            flags,
            name: fields.next()?,
        })
    }
}

#[cfg(fuzzing)]
pub(super) fn fuzz(line: &str) {
    let _ = Interface::parse(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_table_are_read() {
        let line = "fe800000000000000000000000000001 1a 40 20 c8     eth0";
        let interface = Interface::parse(line).unwrap();
        assert_eq!(interface.ip, "fe80::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(
            (interface.index, interface.flags, interface.name),
            (26, 0xc8, "eth0")
        );
        for broken in ["", "fe80", "xyz 1 40 20 80 lo", "00 01 80 10"] {
            assert!(Interface::parse(broken).is_none(), "{broken}");
        }
    }
}
