//! Groups of UDP sockets whose clients have sockets of their own.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use reuseport::{Group, Member, Options, Roster, Steering};
use rustix::net::RecvFlags;

/// Reads from the socket of any runtime without waiting.
pub fn take(socket: &impl AsFd) -> Option<Vec<u8>> {
    let mut buf = [0; 64];
    let (len, _) = rustix::net::recv(socket, &mut buf, RecvFlags::DONTWAIT).ok()?;
    Some(buf[..len].to_vec())
}

pub fn open(addr: &str, weights: Vec<u32>) -> (Vec<UdpSocket>, Roster<UdpSocket>, SocketAddr) {
    let n = weights.len();
    let options = Options::new().steering(Steering::Weights(weights));
    let group = options.packet_group(addr, n).unwrap();
    parts(group)
}

pub fn parts(group: Group<UdpSocket>) -> (Vec<UdpSocket>, Roster<UdpSocket>, SocketAddr) {
    let (roster, addr) = (group.roster(), group.local_addr());
    let members = group.into_iter().map(Member::into_std);
    let members: Vec<_> = members.collect();
    for member in &members {
        member.set_nonblocking(true).unwrap();
    }
    (members, roster, addr)
}

/// An IPv4 address in IPv6 form is the IPv4 address.
pub fn plain(addr: SocketAddr) -> SocketAddr {
    (addr.ip().to_canonical(), addr.port()).into()
}

/// Where a client of the group sends to.
pub fn of(ip: &str, addr: SocketAddr) -> SocketAddr {
    (ip.parse::<IpAddr>().unwrap(), addr.port()).into()
}
