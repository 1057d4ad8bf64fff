//! UDP sockets for one client each, beside the group that has their port.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use super::drain::{hide, interface, show};
use super::filter::Filter;
use super::steer;
use crate::sys::{Dispatch, Instruction};

/// Lets a socket get what this peer sends, and nothing else.
///
/// From its bind to its connect a socket can be chosen for anybody's datagrams, and by a processor that is
/// at one of them a moment longer. What does not pass is counted among the socket's drops.
pub(crate) fn only_from(fd: BorrowedFd<'_>, peer: &SocketAddr) -> io::Result<()> {
    Filter::Classic(program(peer)).give(fd)
}

/// The first byte of the payload is the UDP header's (kernel: udp_queue_rcv_one_skb), and behind
/// SKF_NET_OFF stands the IP header.
fn program(peer: &SocketAddr) -> Vec<Instruction> {
    const BYTE: u16 = 0x30;
    const HALF: u16 = 0x28;
    const WORD: u16 = 0x20;
    const RIGHT: u16 = 0x74;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const NET: u32 = -0x10_0000_i32 as u32;
    let op = |code, k| Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    let (version, source, ip) = match peer.ip().to_canonical() {
        IpAddr::V4(ip) => (4, 12, ip.octets().to_vec()),
        IpAddr::V6(ip) => (6, 8, ip.octets().to_vec()),
    };
    let mut program = vec![
        op(BYTE, NET),
        op(RIGHT, 4),
        op(EQUAL, version),
        op(HALF, 0),
        op(EQUAL, peer.port().into()),
    ];
    for (at, word) in (source..).step_by(4).zip(ip.chunks_exact(4)) {
        let word = word
            .iter()
            .fold(0, |word, &byte| word << 8 | u32::from(byte));
        program.extend([op(WORD, NET.wrapping_add(at)), op(EQUAL, word)]);
    }
    program.extend([op(RETURN, u32::MAX), op(RETURN, 0)]);
    let last = program.len() - 1;
    for (at, instruction) in program.iter_mut().enumerate() {
        if instruction.code == EQUAL {
            instruction.jf = (last - at - 1) as u8;
        }
    }
    program
}

/// Whether a socket of the group with that program still stands in it.
///
/// Only such a socket takes a program (kernel: reuseport_attach_prog); that the group has already changes
/// nothing.
pub(crate) fn is_grouped(fd: BorrowedFd<'_>, dispatch: &Dispatch<'_>) -> io::Result<bool> {
    match steer::dispatch(fd, dispatch) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes a connected socket out of its group, where connect(2) has not done it.
///
/// From Linux 6.13 on it has (kernel: udp_lib_hash4), and on any version where the group is at every address
/// (kernel: udp_lib_rehash). Elsewhere a change of the interface does, and the way back takes CAP_NET_RAW.
pub(crate) fn ungroup(fd: BorrowedFd<'_>) -> io::Result<()> {
    let own = interface(fd).unwrap_or(0);
    hide(fd)?;
    show(fd, own)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    /// Of three senders one is let through, by its address and by its port.
    #[test]
    fn one_peer_passes_the_filter() {
        for [own, other] in [["127.0.0.1", "127.0.0.2"], ["[::1]", "[::1]"]] {
            let socket = UdpSocket::bind(format!("{own}:0")).unwrap();
            let to = socket.local_addr().unwrap();
            let peer = UdpSocket::bind(format!("{own}:0")).unwrap();
            let port = peer.local_addr().unwrap().port();
            only_from(socket.as_fd(), &peer.local_addr().unwrap()).unwrap();
            let same_address = UdpSocket::bind(format!("{own}:0")).unwrap();
            let mut strangers = vec![same_address];
            if own != other {
                strangers.push(UdpSocket::bind(format!("{other}:{port}")).unwrap());
            }
            for stranger in &strangers {
                stranger.send_to(b"stranger", to).unwrap();
            }
            peer.send_to(b"peer", to).unwrap();
            let mut buf = [0; 16];
            let (len, from) = socket.recv_from(&mut buf).unwrap();
            assert_eq!(
                (&buf[..len], from),
                (&b"peer"[..], peer.local_addr().unwrap())
            );
            let drops = crate::sys::packet_queue(socket.as_fd()).unwrap().drops;
            assert_eq!(drops as usize, strangers.len());
        }
    }
}
