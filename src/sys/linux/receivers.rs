//! The sockets that share an address, of this process and of others.

use std::io;
use std::net::SocketAddr;

use super::drain::NOWHERE;
use super::{diag, table};
use crate::sys::{Kind, Receiver};

/// The sockets that receive on exactly this address, in this thread's network namespace: listeners,
/// or UDP sockets without a peer.
pub(crate) fn receivers(kind: Kind, addr: &SocketAddr) -> io::Result<Vec<Receiver>> {
    let (ip, port) = (addr.ip().to_canonical(), addr.port());
    let is_here = |local: &SocketAddr| local.ip() == ip && local.port() == port;
    let receivers = match diag::receivers(kind, addr) {
        Ok(receivers) => receivers,
        Err(_) => table::receivers(kind, addr)?,
    };
    let mut receivers: Vec<_> = receivers
        .into_iter()
        .filter_map(|(local, receiver)| is_here(&local).then_some(receiver))
        .collect();
    // A link-local address is one on each interface, to which its sockets are bound (ipv6(7)).
    if let SocketAddr::V6(v6) = addr {
        if v6.scope_id() != 0 {
            receivers.retain(|receiver| [0, NOWHERE, v6.scope_id()].contains(&receiver.interface));
        }
    }
    Ok(receivers)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpStream, UdpSocket};
    use std::os::fd::AsFd;

    use super::super::drain;
    use super::super::testing::{
        V4, V6, bound, give, group, in_namespace, inode_of, listener, skip,
    };
    use super::*;

    /// By the dump, and by the tables.
    fn all(kind: Kind, addr: &SocketAddr) -> [Vec<u64>; 2] {
        let inodes = |receivers: Vec<(SocketAddr, Receiver)>| {
            let here = receivers
                .into_iter()
                .filter(|(local, _)| local.ip() == addr.ip());
            let mut inodes: Vec<_> = here.map(|(_, receiver)| receiver.inode).collect();
            inodes.sort_unstable();
            inodes
        };
        let mut told: Vec<_> = receivers(kind, addr).unwrap();
        told.sort_unstable_by_key(|receiver| receiver.inode);
        let told = told.iter().map(|receiver| receiver.inode).collect();
        let [dumped, listed] = [
            diag::receivers(kind, addr).unwrap(),
            table::receivers(kind, addr).unwrap(),
        ]
        .map(inodes);
        assert_eq!(dumped, told);
        [told, listed]
    }

    fn is(fds: &[&dyn AsFd]) -> [Vec<u64>; 2] {
        let mut inodes: Vec<_> = fds.iter().map(|fd| inode_of(&fd.as_fd())).collect();
        inodes.sort_unstable();
        [inodes.clone(), inodes]
    }

    #[test]
    fn listeners_are_told_and_connections_are_not() {
        for addr in [V4, V6] {
            let group = group(addr, 2);
            let addr = group[0].local_addr().unwrap();
            let _clients = [(); 8].map(|()| TcpStream::connect(addr).unwrap());
            assert_eq!(all(Kind::Tcp, &addr), is(&[&group[0], &group[1]]));
            let stranger = listener(addr);
            assert_eq!(
                all(Kind::Tcp, &addr),
                is(&[&group[0], &group[1], &stranger])
            );
            drop(stranger);
            // Bound, and another address, and the other family's wildcard.
            let _bound = bound(Kind::Tcp, addr);
            let _other = listener(match addr {
                SocketAddr::V4(_) => ([127, 0, 0, 2], addr.port()).into(),
                SocketAddr::V6(_) => ([0; 16], addr.port()).into(),
            });
            assert_eq!(all(Kind::Tcp, &addr), is(&[&group[0], &group[1]]));
        }
    }

    #[test]
    fn a_udp_socket_with_a_peer_is_none() {
        for addr in [V4, V6] {
            let socket = bound(Kind::Udp, addr);
            let addr = socket.local_addr().unwrap();
            let stranger = bound(Kind::Udp, addr);
            let connected = bound(Kind::Udp, addr).into_udp();
            let peer = UdpSocket::bind((addr.ip(), 0)).unwrap();
            connected.connect(peer.local_addr().unwrap()).unwrap();
            let expected = is(&[&socket.lend(), &stranger.lend()]);
            assert_eq!(all(Kind::Udp, &addr), expected);
        }
    }

    #[test]
    fn users_interfaces_and_families_are_told() {
        let v4 = listener(V4);
        let addr = v4.local_addr().unwrap();
        let told = || receivers(Kind::Tcp, &addr).unwrap()[0];
        assert_eq!((told().only_v6, told().interface), (None, 0));
        assert_eq!(told().uid, crate::sys::user());
        drain::hide(v4.as_fd()).unwrap();
        assert_eq!(told().interface, NOWHERE);
        match give(v4.as_fd(), 4711) {
            true => assert_eq!(told().uid, 4711),
            false => skip("another user's listener (it cannot be given away)"),
        }
        for only in [false, true] {
            let anywhere = ([0_u16; 8], 0).into();
            let socket = crate::sys::Socket::new(Kind::Tcp, &anywhere, false).unwrap();
            socket.set_only_v6(only).unwrap();
            socket.bind(&anywhere).unwrap();
            socket.listen(1).unwrap();
            let addr = socket.local_addr().unwrap();
            let told = receivers(Kind::Tcp, &addr).unwrap();
            let told: Vec<_> = told.iter().map(|receiver| receiver.only_v6).collect();
            assert_eq!(told, [Some(only)]);
        }
    }

    #[test]
    fn another_network_namespace_has_its_own() {
        let listener = listener(V4);
        let addr = listener.local_addr().unwrap();
        in_namespace("the receivers of another namespace", || {
            assert_eq!(receivers(Kind::Tcp, &addr).unwrap(), []);
        });
    }
}
