//! The recipes of GUIDE.md for what `Options` has no word for.

#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    reason = "no safe API sets TCP_FASTOPEN, and the guide shows how"
)]

#[macro_use]
mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;

use reuseport::{Group, Instruction, Member, Options, Spread, Std, Steering};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use util::{Runtime, addr_of, as_user, in_namespace, skip};

on_every_runtime!(an_address_that_comes_later);

/// Calls ip(8); false where there is none.
fn ip(args: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(args.split(' '));
    let child = util::spawn(&mut command);
    child.is_ok_and(|mut child| child.wait().unwrap().success())
}

fn freebind() -> Options {
    Options::new().before_bind(|fd| SockRef::from(&fd).set_freebind_v4(true))
}

/// As of a virtual address that moves between machines: the server is there before it.
fn an_address_that_comes_later<R: Runtime>() {
    in_namespace("an address that no interface has yet", || {
        let addr: SocketAddr = "192.0.2.1:4000".parse().unwrap();
        let error = Options::new().listen::<R>(addr).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        R::block_on(async {
            let listener = freebind().listen::<R>(addr).unwrap();
            let socket = freebind().listen_packet::<R>(addr).unwrap();
            let (members, _) = freebind().group_both("192.0.2.1:4001", 3).unwrap();
            assert_eq!(members.roster().places().len(), 3);
            members.roster().join().map(drop).unwrap();
            if !ip("addr add 192.0.2.1/32 dev lo") {
                return skip("whether an address that comes later is served (ip(8) did not work)");
            }
            let client = TcpStream::connect(addr).unwrap();
            let (_, peer) = R::accept(&listener).await.unwrap();
            assert_eq!(peer, addr_of(&client));
            let client = UdpSocket::bind("192.0.2.1:0").unwrap();
            client.send_to(b"hello", addr).unwrap();
            let (_, peer) = R::recv_from(&socket, &mut [0; 8]).await.unwrap();
            assert_eq!(peer, addr_of(&client));
        });
    });
}

/// A proxy that takes the place of servers whose addresses are elsewhere, and of their clients.
#[test]
fn addresses_of_others() {
    let transparent =
        || Options::new().before_bind(|fd| SockRef::from(&fd).set_ip_transparent_v4(true));
    let addr: SocketAddr = "198.51.100.7:80".parse().unwrap();
    as_user(65_534, "a transparent listener without a privilege", || {
        let error = transparent().listen::<Std>("127.0.0.1:0").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let text = error.to_string();
        assert!(text.contains("the before_bind hook failed"), "{text}");
    });
    in_namespace("transparent listeners", || {
        let group = match transparent()
            .steering(Steering::Weights(vec![1, 1]))
            .group(addr, 2)
        {
            Ok(group) => group,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return skip("transparent listeners (no CAP_NET_ADMIN)");
            }
            Err(error) => panic!("{error}"),
        };
        // What the proxy's rules do (TPROXY), as far as one machine goes: all of the network arrives here.
        if !ip("route add local 198.51.100.0/24 dev lo") {
            return skip("what arrives at a transparent listener (ip(8) did not work)");
        }
        let client: SocketAddr = "198.51.100.9:5555".parse().unwrap();
        let mut stream = transparent().dial_blocking(client, addr).unwrap();
        stream.write_all(b"hello").unwrap();
        let listeners: Vec<_> = group.into_iter().map(Member::into_std).collect();
        let (mut accepted, peer) = util::until(|| {
            listeners.iter().find_map(|listener| {
                listener.set_nonblocking(true).unwrap();
                listener.accept().ok()
            })
        });
        assert_eq!((peer, accepted.local_addr().unwrap()), (client, addr));
        accepted.set_nonblocking(false).unwrap();
        let mut buf = [0; 5];
        accepted.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"hello");
    });
}

fn fast_open() -> Options {
    Options::new().before_bind(|fd| {
        let queue: libc::c_int = 256;
        // SAFETY: the pointer and the length are those of `queue`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_FASTOPEN,
                (&raw const queue).cast(),
                size_of_val(&queue) as libc::socklen_t,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    })
}

/// How many connections of this namespace began with data in their SYN.
fn fast_opened() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut columns = names.split(' ').zip(values.split(' '));
    let (_, value) = columns
        .find(|(name, _)| *name == "TCPFastOpenPassive")
        .unwrap();
    value.parse().unwrap()
}

/// A client that knows one member's cookie has it for every member, and for one that joins later.
#[test]
fn the_first_data_come_with_the_syn() {
    in_namespace("TCP Fast Open", || {
        // Clients and servers.
        std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").unwrap();
        let group = fast_open().group("127.0.0.1:0", 3).unwrap();
        let addr = group.local_addr();
        let roster = group.roster();
        let members = group.into_iter().chain([roster.join().unwrap()]);
        let members: Vec<TcpListener> = members.map(Member::into_std).collect();
        for member in &members {
            member.set_nonblocking(true).unwrap();
            assert_eq!(
                util::int_option(member, libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
                256
            );
        }
        let mut took = vec![0; members.len()];
        const CLIENTS: u64 = 64;
        for number in 0..CLIENTS {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client
                .send_to_with_flags(b"hello", &addr.into(), libc::MSG_FASTOPEN)
                .unwrap();
            let (at, (accepted, _)) = util::until(|| {
                let mut members = members.iter().enumerate();
                members.find_map(|(at, member)| Some((at, member.accept().ok()?)))
            });
            took[at] += 1;
            accepted.set_nonblocking(false).unwrap();
            let mut buf = [0; 5];
            (&accepted).read_exact(&mut buf).unwrap();
            assert_eq!((number, &buf), (number, b"hello"));
        }
        // The first of all gets the cookie.
        assert_eq!(fast_opened(), CLIENTS - 1);
        assert!(took.iter().all(|took| *took > 0), "{took:?}");
    });
}

fn mptcp(addr: SocketAddr) -> std::io::Result<Socket> {
    let protocol = Protocol::from(libc::IPPROTO_MPTCP);
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(protocol))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    socket.listen(4096)?;
    Ok(socket)
}

/// A group of MPTCP is adopted, and what joins is MPTCP. It is spread by the hash alone.
#[test]
fn mptcp_is_adopted() {
    let first = match mptcp("127.0.0.1:0".parse().unwrap()) {
        Ok(socket) => socket,
        Err(error) => return skip(&format!("a group of MPTCP ({error})")),
    };
    let group = Group::<TcpListener>::adopt([first]).unwrap();
    let (addr, roster) = (group.local_addr(), group.roster());
    let more = [roster.join().unwrap(), roster.join().unwrap()];
    let members: Vec<_> = group
        .into_iter()
        .chain(more)
        .map(Member::into_std)
        .collect();
    let first = Instruction {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let error = roster.steer(&Steering::Program(vec![first])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let mut took = vec![0; members.len()];
    for _ in 0..64 {
        let client = Socket::new(
            Domain::IPV4,
            Type::STREAM,
            Some(Protocol::from(libc::IPPROTO_MPTCP)),
        );
        let client = client.unwrap();
        client.connect(&addr.into()).unwrap();
        let (at, accepted) = util::until(|| {
            let mut members = members.iter().enumerate();
            members.find_map(|(at, member)| {
                member.set_nonblocking(true).unwrap();
                Some((at, member.accept().ok()?.0))
            })
        });
        took[at] += 1;
        // A client of plain TCP would have a connection of plain TCP.
        assert_eq!(
            SockRef::from(&accepted).protocol().unwrap(),
            Some(Protocol::from(libc::IPPROTO_MPTCP))
        );
    }
    assert!(took.iter().all(|took| *took > 0), "{took:?}");
}

fn multicast(group: Ipv4Addr) -> Options {
    Options::new()
        .before_bind(move |fd| SockRef::from(&fd).join_multicast_v4(&group, &Ipv4Addr::LOCALHOST))
}

/// Each socket on the port gets each datagram, of one process or of several.
#[test]
fn everybody_gets_a_multicast_datagram() {
    in_namespace("multicast", || {
        let group = Ipv4Addr::new(239, 1, 2, 3);
        let addr = SocketAddr::from((group, 4000));
        let options = multicast(group);
        let mut sockets: Vec<UdpSocket> = Vec::new();
        sockets.push(options.listen_packet::<Std>(addr).unwrap());
        sockets.push(options.listen_packet::<Std>(addr).unwrap());
        let more = options.clone().join(true).packet_group(addr, 2).unwrap();
        sockets.extend(more.into_iter().map(Member::into_std));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        SockRef::from(&sender)
            .set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
            .unwrap();
        for number in 0..20 {
            sender.send_to(&[number], addr).unwrap();
        }
        for socket in &sockets {
            socket.set_read_timeout(Some(util::PATIENCE)).unwrap();
            for number in 0..20 {
                let mut buf = [0; 8];
                assert_eq!(socket.recv(&mut buf).unwrap(), 1);
                assert_eq!(buf[0], number);
            }
        }
        // Members of one queue are one socket.
        let shared = options.clone().spread(Spread::Queue);
        let shared = shared.packet_group((group, 4001), 2).unwrap();
        let shared: Vec<_> = shared.into_iter().map(Member::into_std).collect();
        for number in 0..20 {
            sender.send_to(&[number], (group, 4001)).unwrap();
            let member = &shared[usize::from(number % 2)];
            let mut buf = [0; 8];
            assert_eq!((member.recv(&mut buf).unwrap(), buf[0]), (1, number));
        }
        // Nobody is chosen, so nothing can be steered.
        let error = options
            .steering(Steering::Weights(vec![1]))
            .packet_group(addr, 1);
        let error = error.map(drop).unwrap_err();
        let why = "cannot steer 239.1.2.3:4000: it is a multicast address, and every member gets what arrives";
        assert_eq!(error.to_string(), why);
    });
}
