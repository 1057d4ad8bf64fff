//! Connecting from a port that listeners share, on every runtime.

#![cfg(target_os = "linux")]

#[macro_use]
mod util;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};

use reuseport::{Family, Options, ReusePort, Std};
use socket2::{Domain, Socket, Type};
use util::{Runtime, addr_of, in_namespace, ours};

on_every_runtime!(
    the_peer_sees_the_listeners_port two_ports_dial_each_other failures_are_sentences
    a_port_does_not_dial_itself names_are_looked_up
);

/// Listens and dials on one port, and both work.
fn the_peer_sees_the_listeners_port<R: Runtime>() {
    R::block_on(async {
        for (listen, remote) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:0", "[::1]:0"),
            (":0", "127.0.0.1:0"),
        ] {
            let peer = TcpListener::bind(remote).unwrap();
            let listener = R::listen(listen).unwrap();
            let port = addr_of(&listener).port();
            // A dual-stack listener's own address is `[::]`, and the peer may be IPv4.
            let stream = R::dial(addr_of(&listener), peer.local_addr().unwrap())
                .await
                .unwrap();
            let (mut seen, from) = peer.accept().unwrap();
            assert_eq!(from.port(), port);
            std::io::Write::write_all(&mut seen, b"hello").unwrap();
            let mut buf = [0; 8];
            let mut len = 0;
            while len < 5 {
                len += R::read(&stream, &mut buf[len..]).await.unwrap();
            }
            assert_eq!(&buf[..5], b"hello");

            let client = TcpStream::connect((addr_of(&peer).ip(), port)).unwrap();
            let (_, from) = R::accept(&listener).await.unwrap();
            assert_eq!(from.port(), client.local_addr().unwrap().port());
        }
    });
}

/// As in hole punching: both sides listen, and both dial from where they listen.
fn two_ports_dial_each_other<R: Runtime>() {
    R::block_on(async {
        let (a, b) = (
            R::listen("127.0.0.1:0").unwrap(),
            R::listen("127.0.0.1:0").unwrap(),
        );
        let _stream = R::dial(addr_of(&a), addr_of(&b)).await.unwrap();
        // Closed it would wait, and after a second another may take its place (tcp_tw_reuse).
        let (_accepted, from) = R::accept(&b).await.unwrap();
        assert_eq!(from, addr_of(&a));
        // The connection is the same one from the other side.
        let error = R::dial(addr_of(&b), addr_of(&a))
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable, "{error}");
    });
}

fn failures_are_sentences<R: Runtime>() {
    R::block_on(async {
        let peer = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = peer.local_addr().unwrap();
        let listener = R::listen("127.0.0.1:0").unwrap();
        let local = addr_of(&listener);

        let _first = R::dial(local, remote).await.unwrap();
        let error = R::dial(local, remote).await.map(drop).unwrap_err();
        assert_eq!(
            (error.kind(), error.addr()),
            (ErrorKind::AddrNotAvailable, Some(remote))
        );
        assert_eq!(
            ours(&error),
            format!(
                "cannot dial {remote} from {local}: this port has a connection with that peer already, or had one \
                 a moment ago"
            )
        );

        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        let refusing = addr_of(&bound);
        let error = R::dial(local, refusing).await.map(drop).unwrap_err();
        assert_eq!(ours(&error), format!("cannot dial {refusing} from {local}"));
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let plain = addr_of(&holder);
        let error = R::dial(plain, remote).await.map(drop).unwrap_err();
        assert_eq!(
            ours(&error),
            format!(
                "cannot dial from {plain}: this process holds it and did not set SO_REUSEPORT before bind"
            )
        );
        assert_eq!(error.holder_pid(), Some(std::process::id()));

        let error = R::dial("[::1]:0", remote).await.map(drop).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot dial {remote} from [::1]:0: one address is IPv4 and the other is IPv6")
        );
        let v6 = Options::new().family(Family::V6);
        let error = v6.dial::<R>(local, remote).await.map(drop).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot dial {remote}: it is no address of Family::V6, which was asked for")
        );
        for (remote, why) in [
            (
                "224.0.0.1:80",
                "it is a multicast address, and TCP is between two sockets",
            ),
            (
                "255.255.255.255:80",
                "it is a broadcast address, and TCP is between two sockets",
            ),
            ("127.0.0.1:0", "no socket has port 0"),
        ] {
            let error = R::dial(local, remote.parse().unwrap())
                .await
                .map(drop)
                .unwrap_err();
            assert_eq!(error.to_string(), format!("cannot dial {remote}: {why}"));
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        let error = R::dial("nowhere", remote).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

/// From the address itself, from every address, and from the port that the kernel chooses.
fn a_port_does_not_dial_itself<R: Runtime>() {
    in_namespace("a port that dials itself", || {
        R::block_on(async {
            let listener = R::listen("127.0.0.1:0").unwrap();
            let addr = addr_of(&listener);
            let every = SocketAddr::from(([0, 0, 0, 0], addr.port()));
            for local in [addr, every] {
                let error = R::dial(local, addr).await.map(drop).unwrap_err();
                assert_eq!(
                    error.to_string(),
                    format!(
                        "cannot dial {addr} from {local}: that is the port itself, and TCP would connect the \
                         socket with itself"
                    )
                );
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
            }
            drop(listener);
            let error = R::dial(every, addr).await.map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            // Nothing of it is left on the port: those who do not share can have it.
            TcpListener::bind(addr).unwrap();
        });
    });
}

/// A port of the kernel's choice can be the very one that is dialed.
#[test]
fn a_chosen_port_does_not_dial_itself() {
    in_namespace("a chosen port that dials itself", || {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40000").unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], 40_000));
        let error = Options::new()
            .dial_blocking("127.0.0.1:0", addr)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    });
}

fn names_are_looked_up<R: Runtime>() {
    R::block_on(async {
        let found = R::lookup("localhost:80").await.unwrap();
        assert!(
            found
                .iter()
                .all(|addr| addr.ip().is_loopback() && addr.port() == 80),
            "{found:?}"
        );
        assert!(!found.is_empty());
    });
}

#[test]
fn blocking_threads_dial_too() {
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = peer.local_addr().unwrap();
    let listener = Std::listen("localhost:0").unwrap();
    let port = addr_of(&listener).port();
    let stream = Options::new()
        .dial_blocking(format!(":{port}"), remote)
        .unwrap();
    assert!(!socket2::SockRef::from(&stream).nonblocking().unwrap());
    assert_eq!(peer.accept().unwrap().1.port(), port);
    let error = Options::new()
        .dial_blocking(format!(":{port}"), remote)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    let error = Options::new()
        .dial_blocking("localhost:0", addr_of(&listener))
        .map(|_| ());
    error.unwrap();
}
