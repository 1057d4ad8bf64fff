//! A UDP socket for each client, beside a group: it gets what its client sends, and nothing of anybody else.

#![cfg(target_os = "linux")]

#[path = "util/clients.rs"]
mod clients;
#[macro_use]
mod util;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use clients::{of, open, parts, plain, take};
use reuseport::{Group, Instruction, Options, Roster, Spread, Std, Steering, Tokio, occupants};
use util::{Runtime, addr_of, in_namespace, int_option, ours};

on_every_runtime!(a_client_has_its_socket failures_are_sentences);

/// For each kind of address: IPv4, IPv6, and every address with a client of each family.
fn a_client_has_its_socket<R: Runtime>() {
    R::block_on(async {
        for (listen, ip) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("127.0.0.2:0", "127.0.0.2"),
            ("0.0.0.0:0", "127.0.0.1"),
            (":0", "127.0.0.1"),
            (":0", "::1"),
        ] {
            let (members, roster, addr) = open(listen, vec![1, 1, 1]);
            let to = of(ip, addr);
            let client = UdpSocket::bind((to.ip(), 0)).unwrap();
            client.send_to(b"first", to).unwrap();
            let from = util::until(|| {
                members
                    .iter()
                    .find_map(|member| Some(member.recv_from(&mut [0; 64]).ok()?.1))
            });
            let socket = roster.dial_packet::<R>(from).unwrap();
            assert_eq!(addr_of(&socket).port(), addr.port());
            client.send_to(b"second", to).unwrap();
            let mut buf = [0; 64];
            let (len, peer) = R::recv_from(&socket, &mut buf).await.unwrap();
            assert_eq!((&buf[..len], plain(peer)), (&b"second"[..], plain(from)));
            R::send_to(&socket, b"answer", from).await.unwrap();
            assert_eq!(client.recv_from(&mut buf).unwrap(), (6, to));
            assert!(members.iter().all(|member| take(member).is_none()));

            // It is no member, and is seen with its client.
            assert_eq!(roster.places(), [Some(0), Some(1), Some(2)]);
            let seen = occupants(addr.port()).unwrap();
            let peers = seen.iter().filter_map(|socket| socket.peer);
            assert_eq!(peers.map(plain).collect::<Vec<_>>(), [plain(from)]);

            // What it leaves unread is lost with it, and what comes later is the members'.
            drop(socket);
            client.send_to(b"third", to).unwrap();
            let third = util::until(|| members.iter().find_map(take));
            assert_eq!(third, b"third");
        }
    });
}

fn failures_are_sentences<R: Runtime>() {
    R::block_on(async {
        let (_members, roster, addr) = open("127.0.0.1:0", vec![1, 1]);
        for (peer, why) in [
            (
                "224.0.0.1:9",
                "it is a multicast address, and the socket is for one client",
            ),
            (
                "255.255.255.255:9",
                "it is a broadcast address, and the socket is for one client",
            ),
            ("127.0.0.1:0", "no socket has port 0"),
            ("0.0.0.0:9", "no client has this address"),
            ("[::1]:9", "one address is IPv4 and the other is IPv6"),
        ] {
            let error = roster
                .dial_packet::<R>(peer.parse().unwrap())
                .map(drop)
                .unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("cannot dial {peer} from {addr}: {why}")
            );
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert_eq!(error.addr(), Some(peer.parse().unwrap()));
        }
        let (_members, v6, addr) = open("[::1]:0", vec![1, 1]);
        let peer = "[::1]:9".parse().unwrap();
        let error = v6.dial_packet::<R>(peer).map(drop).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot dial {peer} from {addr}: the group is on one IPv6 address, where the kernel does not \
                 tell the socket from the members; open it on every address ([::])"
            )
        );
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        // A client in IPv6 form is the IPv4 client.
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = addr_of(&client).port();
        let mapped = format!("[::ffff:127.0.0.1]:{port}").parse().unwrap();
        roster.dial_packet::<R>(mapped).map(drop).unwrap();
    });
}

#[track_caller]
fn refused(roster: &Roster<UdpSocket>, why: &str) {
    let client = "[::1]:9".parse().unwrap();
    let error = roster.dial_packet::<Tokio>(client).map(drop).unwrap_err();
    let ours = ours(&error);
    assert!(
        ours.starts_with("cannot dial [::1]:9 from [::]:"),
        "{error}"
    );
    assert!(ours.ends_with(why), "{error}");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn groups_that_do_not_choose_are_refused() {
    let queue = Options::new()
        .spread(Spread::Queue)
        .packet_group(":0", 2)
        .unwrap();
    refused(
        &queue.roster(),
        "the members of the group have one queue together, and no program chooses among them",
    );
    let first = Instruction {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let program = Options::new().steering(Steering::Program(vec![first]));
    let program = program.packet_group(":0", 2).unwrap();
    refused(
        &program.roster(),
        "the group is steered by a program of the caller's, which may choose any place",
    );
    let group = Options::new().packet_group(":0", 1).unwrap();
    let more = Options::new()
        .join(true)
        .packet_group(group.local_addr(), 1)
        .unwrap();
    let why = "a socket that the group did not open shares the port, and would get nothing more";
    refused(&group.roster(), why);
    drop(more);
    let (members, roster, _) = parts(group);
    roster
        .dial_packet::<Std>("[::1]:9".parse().unwrap())
        .unwrap();
    drop(members);
    refused(&roster, "no member of its group is open");
}

/// It has what the group's sockets were opened with, also where they were opened elsewhere.
#[test]
fn it_has_the_options_of_the_group() {
    in_namespace("options of clients' sockets", || {
        // As in many containers; IPv4 in IPv6 form is no IPv6.
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/bindv6only", "1").unwrap();
        for addr in ["127.0.0.1:4000", "0.0.0.0:4001"] {
            let options = Options::new().device("lo").before_bind(|fd| {
                let socket = socket2::SockRef::from(&fd);
                socket.set_freebind_v4(true)?;
                socket.set_tos_v4(0x10)
            });
            let opened = options.packet_group(addr, 2).unwrap();
            let to: SocketAddr = addr.parse().unwrap();
            let to = of("127.0.0.1", to);
            let elsewhere = [options.join(true).listen_packet::<Std>(addr).unwrap()];
            let adopted = Group::<UdpSocket>::adopt(elsewhere).unwrap();
            for roster in [opened.roster(), adopted.roster()] {
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                let socket = roster.dial_packet::<Std>(addr_of(&client)).unwrap();
                for (option, value) in [(libc::IP_TOS, 0x10), (libc::IP_FREEBIND, 1)] {
                    assert_eq!(int_option(&socket, libc::IPPROTO_IP, option), value);
                }
                assert_ne!(
                    int_option(&socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX),
                    0
                );
                let send = || assert!(client.send_to(b"own", to).is_ok());
                assert_eq!(util::until_sent(send, || take(&socket)).0, b"own");
                socket.send(b"answer").unwrap();
                assert_eq!(client.recv_from(&mut [0; 8]).unwrap(), (6, to));
            }
        }
    });
}

/// As long as a client has a socket the port is in use, also when all members are closed.
#[test]
fn the_port_is_free_when_all_are_closed() {
    in_namespace("when a port is free again", || {
        for listen in ["127.0.0.1:4000", ":4000"] {
            let group = Options::new().packet_group(listen, 2).unwrap();
            let (addr, roster) = (group.local_addr(), group.roster());
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            let socket = roster.dial_packet::<Std>(addr_of(&client)).unwrap();
            drop(group);
            let error = Options::new().packet_group(addr, 2).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
            let why = "another socket holds it";
            assert_eq!(
                ours(&error),
                format!("cannot open a new group on {addr}: {why}")
            );
            // The client is served all the same.
            let send = || assert!(client.send_to(b"own", of("127.0.0.1", addr)).is_ok());
            assert_eq!(util::until_sent(send, || take(&socket)).0, b"own");
            let shared = Options::new().listen_packet::<Std>(addr).unwrap();
            drop((socket, shared));
            Options::new().packet_group(addr, 2).map(drop).unwrap();
        }
    });
}

#[test]
fn no_privilege_is_needed() {
    util::as_user(65_534, "clients' sockets without a privilege", || {
        a_client_has_its_socket::<Std>();
        a_client_has_its_socket::<Tokio>();
    });
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn without_ipv6_it_says_so() {
    let group = Options::new().packet_group("127.0.0.1:0", 1).unwrap();
    let addr = group.local_addr();
    util::on_thread(|| {
        util::answer(libc::SYS_socket, &[(0, libc::AF_INET6)], libc::EAFNOSUPPORT);
        let client = "127.0.0.1:9".parse().unwrap();
        let error = group.roster().dial_packet::<Std>(client).unwrap_err();
        let why = "it takes an IPv6 socket, also for an IPv4 client, and this machine has none";
        assert_eq!(
            error.to_string(),
            format!("cannot dial {client} from {addr}: {why}")
        );
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    });
}
