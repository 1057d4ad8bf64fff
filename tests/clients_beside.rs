//! What the members of a group get while their clients have sockets of their own: the same as without.

#![cfg(target_os = "linux")]

#[path = "util/clients.rs"]
mod clients;
mod util;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clients::{of, parts, take};
use reuseport::{ConnectionIds, Instruction, Options, Std, Steering};
use socket2::{Domain, Socket, Type};
use util::{PATIENCE, addr_of, assert_drained, in_namespace};

/// Of many flows, how many datagrams each member read, and how many `beside` did.
fn flows(to: SocketAddr, members: &[UdpSocket], beside: &UdpSocket) -> (Vec<usize>, usize) {
    let mut read = (vec![0; members.len()], 0);
    for number in 0..200_u32 {
        let client = UdpSocket::bind((to.ip(), 0)).unwrap();
        // The first byte is the number of a member, or of none.
        let send = || assert!(client.send_to(&[(number % 7) as u8], to).is_ok());
        let sockets = || members.iter().chain([beside]);
        let (chosen, _) =
            util::until_sent(send, || sockets().position(|socket| take(socket).is_some()));
        match read.0.get_mut(chosen) {
            Some(count) => *count += 1,
            None => read.1 += 1,
        }
    }
    read
}

/// Every way to choose that is the crate's, and whether it chooses members only from the start.
fn steerings() -> [(Steering, bool); 4] {
    [
        (Steering::Hash, false),
        (Steering::Cpu, false),
        (Steering::ConnectionIds(ConnectionIds::at(0)), false),
        (Steering::Weights(vec![0, 1, 2]), true),
    ]
}

/// What stands between bind and connect is not chosen: shown with sockets that stay there. In a group at
/// every address that is the program's doing.
#[test]
fn a_socket_that_is_only_bound_gets_nothing() {
    for (steering, was_apart) in steerings() {
        let bound = |addr: SocketAddr| {
            let socket = Options::new().join(true).packet_group(addr, 1).unwrap();
            parts(socket).0.remove(0)
        };
        let options = Options::new().steering(steering.clone());
        let (members, roster, addr) = parts(options.packet_group(":0", 3).unwrap());
        let to = of("::1", addr);
        // Without the call it may be chosen.
        let before = bound(addr);
        let (_, chosen) = flows(to, &members, &before);
        match steering {
            // Each of its processors has a member, or the hash decides.
            Steering::Cpu => {}
            _ => assert_eq!(chosen == 0, was_apart, "{steering:?}: {chosen}"),
        }
        drop(before);
        let client = UdpSocket::bind("[::1]:0").unwrap();
        roster.dial_packet::<Std>(addr_of(&client)).unwrap();
        let (read, chosen) = flows(to, &members, &bound(addr));
        assert_eq!((read.iter().sum(), chosen), (200, 0), "{steering:?}");
        if was_apart {
            assert_eq!(read[0], 0);
        }
    }
}

/// In an IPv4 group it is the kernel's: no program is needed, and the caller's may do what it likes.
#[test]
fn an_ipv6_socket_that_is_only_bound_gets_nothing_of_ipv4() {
    let beside = Instruction {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: 3,
    };
    let program = (Steering::Program(vec![beside]), false);
    for (steering, _) in steerings().into_iter().chain([program]) {
        for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
            let options = Options::new().steering(steering.clone());
            let (members, _roster, addr) = parts(options.packet_group(listen, 3).unwrap());
            let bound = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
            bound.set_only_v6(false).unwrap();
            bound.set_reuse_port(true).unwrap();
            let IpAddr::V4(ip) = addr.ip() else { panic!() };
            let mapped = SocketAddr::from((ip.to_ipv6_mapped(), addr.port()));
            bound.bind(&mapped.into()).unwrap();
            let (read, chosen) = flows(of("127.0.0.1", addr), &members, &bound.into());
            assert_eq!((read.iter().sum(), chosen), (200, 0), "{steering:?}");
        }
    }
}

/// A program of the caller's decides again when it is set, and then clients get no sockets.
#[test]
fn the_way_to_choose_can_change() {
    let (members, roster, addr) = parts(Options::new().packet_group(":0", 3).unwrap());
    let to = of("::1", addr);
    let dial = || roster.dial_packet::<Std>(of("::1", addr));
    dial().unwrap();
    let third = Instruction {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: 2,
    };
    roster.steer(&Steering::Program(vec![third])).unwrap();
    let none = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(flows(to, &members, &none), (vec![0, 0, 200], 0));
    assert!(dial().is_err());
    roster.steer(&Steering::Hash).unwrap();
    dial().unwrap();
    let bound = Options::new().join(true).packet_group(addr, 1).unwrap();
    let (read, chosen) = flows(to, &members, &parts(bound).0[0]);
    assert!(read.iter().all(|read| *read > 0), "{read:?}");
    assert_eq!(chosen, 0);
}

/// Members keep their places and their flows while clients' sockets come and go, and other members too.
#[test]
fn members_are_not_disturbed() {
    for (listen, ip) in [
        ("127.0.0.1:0", "127.0.0.1"),
        (":0", "127.0.0.1"),
        (":0", "::1"),
    ] {
        let ids = Steering::ConnectionIds(ConnectionIds::at(0));
        let options = Options::new().steering(ids);
        let (mut members, roster, addr) = parts(options.packet_group(listen, 3).unwrap());
        let to = of(ip, addr);
        let sender = || UdpSocket::bind((to.ip(), 0)).unwrap();
        let mut open = Vec::new();
        for round in 0..30 {
            for _ in 0..3 {
                let client = sender();
                let socket = roster.dial_packet::<Std>(addr_of(&client)).unwrap();
                open.push((client, socket));
            }
            match round % 5 {
                1 => open.drain(..2).for_each(drop),
                2 => {
                    let joined = roster.join().unwrap();
                    assert_eq!(joined.number(), members.len());
                    members.push(joined.into_std());
                    members.last().unwrap().set_nonblocking(true).unwrap();
                }
                4 => {
                    roster.close(members.len() - 1).unwrap();
                    drop(members.pop());
                }
                _ => {}
            }
            let numbers: Vec<_> = (0..members.len()).map(Some).collect();
            assert_eq!(roster.places(), numbers);
            for (number, member) in members.iter().enumerate() {
                let (stranger, number) = (sender(), number as u8);
                let send = || assert!(stranger.send_to(&[number], to).is_ok());
                assert_eq!(util::until_sent(send, || take(member)).0, [number]);
            }
            for (client, socket) in &open {
                let send = || assert!(client.send_to(b"own", to).is_ok());
                assert_eq!(util::until_sent(send, || take(socket)).0, b"own");
            }
            assert!(members.iter().all(|member| take(member).is_none()));
        }
    }
}

/// As above, while strangers send and two threads open the sockets.
#[test]
fn flows_stay_while_clients_come_and_go() {
    for ((steering, _), (listen, ip)) in steerings()
        .into_iter()
        .filter(|(steering, _)| !matches!(steering, Steering::Cpu))
        .flat_map(|steering| {
            [("127.0.0.1:0", "127.0.0.1"), (":0", "::1")].map(|at| (steering.clone(), at))
        })
    {
        let by_id = matches!(steering, Steering::ConnectionIds(_));
        let options = Options::new().steering(steering);
        let (members, roster, addr) = parts(options.packet_group(listen, 3).unwrap());
        let to = of(ip, addr);
        let sender = || UdpSocket::bind((to.ip(), 0)).unwrap();
        // From here on the program decides.
        roster.dial_packet::<Std>(of(ip, addr)).unwrap();
        let opening = AtomicUsize::new(2);
        let read = thread::scope(|scope| {
            let opener = || {
                let mut open = VecDeque::new();
                for _ in 0..200 {
                    let client = sender();
                    let socket = roster.dial_packet::<Std>(addr_of(&client)).unwrap();
                    let send = || assert!(client.send_to(b"own", to).is_ok());
                    assert_eq!(util::until_sent(send, || take(&socket)).0, b"own");
                    open.push_back((client, socket));
                    if open.len() > 20 {
                        open.pop_front();
                    }
                }
                opening.fetch_sub(1, Ordering::Relaxed);
                for (_, socket) in open {
                    assert_eq!(take(&socket), None);
                }
            };
            let openers = [scope.spawn(opener), scope.spawn(opener)];
            let strangers = [(); 32].map(|()| sender());
            let mut owners = vec![None; strangers.len()];
            let mut read = 0;
            while opening.load(Ordering::Relaxed) > 0 {
                for (number, stranger) in strangers.iter().enumerate() {
                    stranger
                        .send_to(&[(number % 3) as u8, number as u8], to)
                        .unwrap();
                }
                for (at, member) in members.iter().enumerate() {
                    while let Some(packet) = take(member) {
                        assert_ne!(packet, b"own", "a client's came to member {at}");
                        let owner = match by_id {
                            true => packet[0].into(),
                            false => *owners[usize::from(packet[1])].get_or_insert(at),
                        };
                        assert_eq!(at, owner, "{packet:?}");
                        read += 1;
                    }
                }
            }
            openers
                .into_iter()
                .for_each(|opener| opener.join().unwrap());
            read
        });
        assert!(read > 0);
    }
}

/// A process that is replaced keeps the clients that have sockets, and on IPv4 can still take more; the next
/// one gets all others.
#[test]
fn clients_stay_with_the_process_that_has_their_sockets() {
    for (ip, listen) in [("127.0.0.1", "127.0.0.1:4000"), ("::1", "[::]:4000")] {
        in_namespace("clients' sockets over a restart", || {
            let open = || {
                let (group, generation) = Options::new().packet_generation(listen, 2).unwrap();
                let (members, roster, addr) = parts(group);
                (members, roster, of(ip, addr), generation)
            };
            let read = |members: &[UdpSocket]| members.iter().find_map(take);
            let ask =
                |client: &UdpSocket, to, what: &[u8], read: &mut dyn FnMut() -> Option<Vec<u8>>| {
                    let send = || assert!(client.send_to(what, to).is_ok());
                    assert_eq!(util::until_sent(send, read).0, what);
                };
            let client = || UdpSocket::bind((ip, 0)).unwrap();

            let (old, roster, to, generation) = open();
            assert_drained(generation.take_over_blocking(PATIENCE));
            let clients = [client(), client(), client()];
            let dial = |client: &UdpSocket| roster.dial_packet::<Std>(addr_of(client));
            let early = dial(&clients[0]).unwrap();
            let (new, next_roster, _, next) = open();
            // While another process is about to take over.
            let late = dial(&clients[1]).unwrap();
            let error = next_roster
                .dial_packet::<Std>(addr_of(&clients[2]))
                .map(drop);
            // On IPv4 nothing of the group is touched, from Linux 6.13 on.
            match error {
                Ok(()) => assert_eq!(ip, "127.0.0.1"),
                Err(error) => {
                    let why = "its group has not taken over yet";
                    assert!(error.to_string().ends_with(why), "{error}");
                }
            }
            ask(&client(), to, b"old", &mut || read(&old));
            assert_drained(next.take_over_blocking(PATIENCE));
            for (client, socket) in [(&clients[0], &early), (&clients[1], &late)] {
                ask(client, to, b"kept", &mut || take(socket));
            }
            for _ in 0..20 {
                ask(&client(), to, b"new", &mut || read(&new));
            }
            match dial(&clients[2]) {
                Ok(socket) => ask(&clients[2], to, b"late", &mut || take(&socket)),
                Err(error) => {
                    let why = "another process has taken its group over";
                    assert!(error.to_string().ends_with(why), "{error}");
                    assert_eq!(ip, "::1");
                }
            }
            drop(old);
            ask(&clients[0], to, b"kept", &mut || take(&early));
            let theirs = next_roster
                .dial_packet::<Std>(addr_of(&clients[2]))
                .unwrap();
            ask(&clients[2], to, b"theirs", &mut || take(&theirs));
            // What the old process closes comes to the new one.
            drop(early);
            ask(&clients[0], to, b"given", &mut || read(&new));
            // And a third takes over while both have clients.
            let (third, _, _, last) = open();
            assert_drained(last.take_over_blocking(PATIENCE));
            ask(&clients[1], to, b"kept", &mut || take(&late));
            ask(&clients[2], to, b"theirs", &mut || take(&theirs));
            ask(&client(), to, b"third", &mut || read(&third));
        });
    }
}
