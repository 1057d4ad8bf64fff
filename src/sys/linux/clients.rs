//! UDP sockets for one client each, beside the group that has their port.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use super::filter::Filter;
use super::steer;
use crate::sys::unix::set_option;
use crate::sys::{Instruction, Kind, Socket, unsupported};

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

/// Whether the kernel looks for a socket that is connected to the sender before it asks a group: from Linux
/// 6.13 on, where a socket leaves its group by connect(2) (kernel: udp_lib_hash4).
///
/// Asked with a socket that is connected to itself, on an address of this machine. What is in no group takes
/// no program (kernel: reuseport_attach_prog). An error before Linux 5.3, where a group is always asked first.
pub(crate) fn finds_by_peer(ip: IpAddr) -> io::Result<bool> {
    static FINDS: OnceLock<bool> = OnceLock::new();
    if let Some(finds) = FINDS.get() {
        return Ok(*finds);
    }
    let socket = Socket::new(Kind::Udp, &(ip, 0).into(), false)?;
    socket.set_reuse_port()?;
    socket.bind(&(ip, 0).into())?;
    socket.connect(&socket.local_addr()?)?;
    let finds = match steer::attach(socket.lend(), &[steer::TO_THE_HASH]) {
        // It came with Linux 5.3, as did the look at connected sockets beside a group (commit acdcecc61285).
        Ok(()) => match set_option(
            socket.lend(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_REUSEPORT_BPF,
            &0_i32,
        ) {
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                let why = "this kernel asks a group before it looks at connected sockets";
                return Err(unsupported(why));
            }
            Ok(()) | Err(_) => false,
        },
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => true,
        Err(error) => return Err(error),
    };
    Ok(*FINDS.get_or_init(|| finds))
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
