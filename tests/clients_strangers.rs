//! What others send is never read from a client's socket.

#![cfg(target_os = "linux")]

#[path = "util/clients.rs"]
mod clients;
mod util;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use clients::{of, parts, take};
use reuseport::{ConnectionIds, Options, Std, Steering, packet_queue};
use socket2::{Domain, Socket, Type};
use util::{addr_of, in_namespace};

/// What strangers send, which no client's socket may ever read.
const STRANGE: &[u8] = b"strange";

/// Clients' sockets that are opened while strangers send without a pause.
struct Storm {
    /// What strangers sent, and how often a client's socket was chosen for it.
    strange: usize,
    chosen: usize,
    /// What clients' sockets read: of their client, and of strangers.
    own: usize,
    foreign: usize,
}

/// `connect` opens a client's socket; the members are read by `drain` all the time.
fn storm(
    to: SocketAddr,
    clients: usize,
    connect: impl Fn(SocketAddr) -> UdpSocket,
    drain: impl Fn() + Sync,
) -> Storm {
    let (over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let strangers = [(); 64].map(|()| UdpSocket::bind((to.ip(), 0)).unwrap());
                while !over.load(Ordering::Relaxed) {
                    for stranger in &strangers {
                        sent.fetch_add(
                            stranger.send_to(STRANGE, to).is_ok().into(),
                            Ordering::Relaxed,
                        );
                    }
                    drain();
                }
            });
        }
        util::until(|| (sent.load(Ordering::Relaxed) > 1000).then_some(()));
        let mut storm = Storm {
            strange: 0,
            chosen: 0,
            own: 0,
            foreign: 0,
        };
        for _ in 0..clients {
            let client = UdpSocket::bind((to.ip(), 0)).unwrap();
            let socket = connect(addr_of(&client));
            // What a stranger's processor is at arrives before this.
            let send = || assert!(client.send_to(b"own", to).is_ok());
            util::until_sent(send, || {
                let read = take(&socket)?;
                storm.foreign += usize::from(read == STRANGE);
                (read == b"own").then_some(())
            });
            storm.own += 1;
            while let Some(read) = take(&socket) {
                storm.foreign += usize::from(read == STRANGE);
            }
            storm.chosen += packet_queue(&socket).unwrap().drops as usize;
        }
        over.store(true, Ordering::Relaxed);
        storm.strange = sent.load(Ordering::Relaxed);
        storm
    })
}

const CLIENTS: usize = 500;

#[test]
fn strangers_are_never_read() {
    for (listen, ip, steering) in [
        ("127.0.0.1:0", "127.0.0.1", Steering::Weights(vec![1, 2, 3])),
        ("127.0.0.1:0", "127.0.0.1", Steering::Hash),
        ("127.0.0.1:0", "127.0.0.1", Steering::Cpu),
        (
            "127.0.0.1:0",
            "127.0.0.1",
            Steering::ConnectionIds(ConnectionIds::at(0)),
        ),
        ("0.0.0.0:0", "127.0.0.1", Steering::Hash),
        (":0", "127.0.0.1", Steering::Weights(vec![1, 2, 3])),
        (":0", "::1", Steering::Hash),
    ] {
        let name = format!("{listen} {steering:?}");
        let group = Options::new()
            .steering(steering)
            .packet_group(listen, 3)
            .unwrap();
        let (members, roster, addr) = parts(group);
        let drain = || while members.iter().any(|member| take(member).is_some()) {};
        let storm = storm(
            of(ip, addr),
            CLIENTS,
            |peer| roster.dial_packet::<Std>(peer).unwrap(),
            drain,
        );
        println!(
            "measured: {name}: {CLIENTS} clients, {} datagrams of strangers: clients' sockets were chosen for {}, read {}",
            storm.strange, storm.chosen, storm.foreign,
        );
        assert_eq!((storm.own, storm.foreign), (CLIENTS, 0));
    }
}

/// What everybody does without this crate: bind, and connect.
fn bind(to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&to.into()).unwrap();
    socket
}

#[test]
fn strangers_are_read_without_it() {
    let group = Options::new().packet_group("127.0.0.1:0", 3).unwrap();
    let (members, _roster, addr) = parts(group);
    let drain = || while members.iter().any(|member| take(member).is_some()) {};
    let connect = |peer: SocketAddr| {
        let socket = bind(addr);
        socket.connect(&peer.into()).unwrap();
        socket.into()
    };
    let storm = storm(addr, CLIENTS, connect, drain);
    println!(
        "measured: bind and connect: {CLIENTS} clients, {} datagrams of strangers: clients' sockets read {}",
        storm.strange, storm.foreign,
    );
    assert_eq!(storm.own, CLIENTS);

    // How many depends on how long it is bound and not connected.
    let socket = bind(addr);
    let strangers = [(); 100].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    for stranger in &strangers {
        stranger.send_to(STRANGE, addr).unwrap();
    }
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(&addr_of(&client).into()).unwrap();
    assert_eq!(util::until(|| take(&socket)), STRANGE);
}

/// Where a client's socket gets what is not of its client, it is dropped, and counted: here it is connected no
/// more, and alone.
#[test]
fn what_others_send_is_dropped() {
    in_namespace("a client's socket that is alone", || {
        for (listen, ip) in [
            ("127.0.0.1:0", "127.0.0.1"),
            (":0", "127.0.0.1"),
            (":0", "::1"),
        ] {
            let group = Options::new().packet_group(listen, 2).unwrap();
            let (to, roster) = (of(ip, group.local_addr()), group.roster());
            let [client, stranger] = [(); 2].map(|()| UdpSocket::bind((to.ip(), 0)).unwrap());
            let socket = roster.dial_packet::<Std>(addr_of(&client)).unwrap();
            drop(group);
            rustix::net::connect_unspec(&socket).unwrap();
            let send = || assert!(stranger.send_to(STRANGE, to).is_ok());
            let dropped = || (packet_queue(&socket).unwrap().drops > 0).then_some(());
            util::until_sent(send, dropped);
            let send = || assert!(client.send_to(b"own", to).is_ok());
            assert_eq!(util::until_sent(send, || take(&socket)).0, b"own");
        }
    });
}

#[test]
fn no_privilege_is_needed() {
    util::as_user(
        65_534,
        "strangers' datagrams without a privilege",
        strangers_are_never_read,
    );
}
