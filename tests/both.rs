//! A TCP listener and a UDP socket on one port number, on every runtime.

#![cfg(target_os = "linux")]

#[macro_use]
mod util;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use reuseport::{ConnectionIds, Family, Options, Steering, queue};
use util::{Runtime, addr_of, in_namespace, ours};

on_every_runtime!(one_port_has_both the_free_one_is_found);

fn one_port_has_both<R: Runtime>() {
    R::block_on(async {
        for (addr, to) in [
            ("localhost:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            (":0", "127.0.0.1"),
        ] {
            let options = Options::new().backlog(7);
            let (listener, socket) = options.listen_both::<R>(addr).unwrap();
            assert_eq!(addr_of(&listener), addr_of(&socket));
            assert_eq!(queue(&listener).unwrap().limit, 7);
            let port = addr_of(&socket).port();
            let to: SocketAddr = (to.parse::<std::net::IpAddr>().unwrap(), port).into();
            let client = TcpStream::connect(to).unwrap();
            let (_, peer) = R::accept(&listener).await.unwrap();
            assert_eq!(peer.port(), client.local_addr().unwrap().port());
            let client = UdpSocket::bind((to.ip(), 0)).unwrap();
            client.send_to(b"hello", to).unwrap();
            let (len, peer) = R::recv_from(&socket, &mut [0; 8]).await.unwrap();
            assert_eq!((len, peer.port()), (5, addr_of(&client).port()));

            // A port that is named is shared.
            let again = Options::new().listen_both::<R>(addr_of(&socket)).unwrap();
            assert_eq!(addr_of(&again.0), addr_of(&again.1));
            // A port that is found is new.
            let other = Options::new().listen_both::<R>(addr).unwrap();
            assert_ne!(addr_of(&other.0), addr_of(&socket));
        }
    });
}

/// Of the four ports there, UDP sockets of this and of other programs have three, or all.
fn the_free_one_is_found<R: Runtime>() {
    in_namespace("a free port for TCP and UDP", || {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").unwrap();
        R::block_on(async {
            // One that shares its port is not joined.
            let shared = Options::new()
                .listen_packet::<R>("127.0.0.1:40000")
                .unwrap();
            let _plain = [40_001, 40_003].map(|port| UdpSocket::bind(("127.0.0.1", port)).unwrap());
            for _ in 0..10 {
                let (listener, socket) = Options::new().listen_both::<R>("127.0.0.1:0").unwrap();
                assert_eq!(addr_of(&listener).port(), 40_002);
                assert_eq!(addr_of(&socket).port(), 40_002);
                drop((listener, socket));
                let groups = Options::new()
                    .join(true)
                    .group_both("localhost:0", 3)
                    .unwrap();
                assert_eq!(groups.0.local_addr().port(), 40_002);
                assert_eq!(groups.1.local_addr().port(), 40_002);
                assert_eq!((groups.0.len(), groups.1.len()), (3, 3));
            }
            let _last = UdpSocket::bind("127.0.0.1:40002").unwrap();
            let sentence = "cannot open TCP and UDP on one port of 127.0.0.1: other UDP sockets have all of \
                            the 4 ports that were free for TCP";
            let error = Options::new()
                .listen_both::<R>("127.0.0.1:0")
                .map(drop)
                .unwrap_err();
            assert_eq!(
                (error.to_string(), error.kind()),
                (sentence.to_owned(), ErrorKind::AddrInUse)
            );
            let error = Options::new()
                .group_both("127.0.0.1:0", 2)
                .map(drop)
                .unwrap_err();
            assert_eq!(
                (error.to_string(), error.kind()),
                (sentence.to_owned(), ErrorKind::AddrInUse)
            );
            // Nothing of the tries is left.
            for port in 40_000..40_004 {
                TcpListener::bind(("127.0.0.1", port)).unwrap();
            }
            drop(shared);
        });
    });
}

/// Where no connection of another test has the port.
#[test]
fn what_is_refused_is_refused_as_a_whole() {
    in_namespace("both halves that are refused", refused_as_a_whole);
}

/// The sentences of `listen` and `listen_packet`; nothing of the other half is left.
fn refused_as_a_whole() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = addr_of(&udp);
    let both = || Options::new().listen_both::<reuseport::Std>(addr);
    let error = both().map(drop).unwrap_err();
    let holds = "this process holds it and did not set SO_REUSEPORT before bind";
    assert_eq!(ours(&error), format!("cannot share {addr}: {holds}"));
    TcpListener::bind(addr).unwrap();
    let error = Options::new().group_both(addr, 2).map(drop).unwrap_err();
    assert_eq!(
        ours(&error),
        format!("cannot open a new group on {addr}: {holds}")
    );
    drop(udp);
    both().map(drop).unwrap();

    let options = Options::new().family(Family::V6);
    let error = options
        .listen_both::<reuseport::Std>(addr)
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let options = Options::new().steering(Steering::Cpu);
    let error = options
        .listen_both::<reuseport::Std>(":0")
        .map(drop)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot use Options::steering with Options::listen: it is for groups (Options::group, \
         Options::packet_group)"
    );
}

/// What means something to one protocol only is for that one.
#[test]
fn groups_of_both_are_steered() {
    for steering in [
        Steering::Weights(vec![1, 3]),
        Steering::ConnectionIds(ConnectionIds::quic()),
        Steering::Cpu,
    ] {
        let options = Options::new().steering(steering).backlog(7);
        let (listeners, sockets) = options.group_both(":0", 2).unwrap();
        assert_eq!(listeners.local_addr(), sockets.local_addr());
        assert_eq!(queue(listeners.iter().next().unwrap()).unwrap().limit, 7);
        let rosters = [listeners.roster().places(), sockets.roster().places()];
        assert_eq!(rosters, [[Some(0), Some(1)], [Some(0), Some(1)]]);
    }
}
