//! Windows, which cannot share a port: what is refused there and how, and that adopted sockets work.

#![cfg(windows)]

mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use reuseport::{AsyncStd, Drained, Error, Group, Options, Smol, Spread, Std, Tokio, support};
use socket2::SockRef;
use util::Runtime;

/// Calls a generic function with every runtime.
macro_rules! in_every_runtime {
    ($check:ident) => {
        $check::<Std>();
        $check::<Tokio>();
        $check::<AsyncStd>();
        $check::<Smol>();
    };
}

fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[track_caller]
fn assert_refused<T>(what: &str, result: Result<T, Error>, addr: SocketAddr) {
    let Err(error) = result else {
        panic!("{what} must be refused");
    };
    let sentence = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {sentence}");
    assert_eq!(error.addr(), Some(addr), "{what}: {sentence}");
    assert!(sentence.contains(&addr.to_string()), "{what}: {sentence}");
    assert!(
        sentence.ends_with(": this system cannot share a port"),
        "{what}: {sentence}"
    );
    assert_eq!(error.holder(), None, "{what}: {sentence}");
}

#[track_caller]
fn assert_invalid<T>(result: Result<T, Error>, why: &str) {
    let Err(error) = result else {
        panic!("must be refused: {why}");
    };
    let sentence = error.to_string();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{sentence}");
    assert!(
        sentence.starts_with("cannot adopt descriptor "),
        "{sentence}"
    );
    assert!(sentence.contains(why), "{sentence}");
}

#[test]
fn a_call_that_blocks_has_no_deadline() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut buf = [0; 9];
    let read = <Std as reuseport::Net>::recv_from(&socket, &mut buf);
    let second = std::time::Duration::from_secs(1);
    let within = <Std as reuseport::Runtime>::within(second, read);
    let error = <Std as Runtime>::block_on(within).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        error.to_string(),
        "on this system a call that blocks has no deadline"
    );
}

#[test]
fn support_promises_nothing() {
    let support = support();
    assert!(!support.shares);
    assert!(!support.spreads);
    assert!(!support.steers);
    assert!(!support.dual_stack);
    assert_eq!(support.group_limit, 0);
}

#[test]
fn sockets_that_would_share_are_refused() {
    fn check<R: Runtime>() {
        let addr = free_addr();
        assert_refused(R::NAME, R::listen(addr).map(drop), addr);
        assert_refused(R::NAME, R::listen_packet(addr).map(drop), addr);
        let localhost = ([127, 0, 0, 1], addr.port()).into();
        let text = format!("localhost:{}", addr.port());
        assert_refused(R::NAME, R::listen(text).map(drop), localhost);
        let peer = free_addr();
        let dialed = R::block_on(R::dial(addr, peer)).map(drop);
        assert_refused(R::NAME, dialed, addr);
    }
    in_every_runtime!(check);
}

#[test]
fn groups_of_sockets_that_would_share_are_refused() {
    let addr = free_addr();
    let kernel = Options::new().spread(Spread::Kernel);
    for options in [kernel.clone(), kernel.join(true)] {
        for n in [1, 2, 1000] {
            assert_refused("group", options.group(addr, n), addr);
            assert_refused("packet_group", options.packet_group(addr, n), addr);
        }
    }
}

#[test]
fn dialing_from_a_port_is_refused() {
    let addr = free_addr();
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = peer.local_addr().unwrap();
    assert_refused(
        "dial_blocking",
        Options::new().dial_blocking(addr, peer),
        addr,
    );
}

/// SO_REUSEADDR on Windows would take the port away from whoever has it.
#[test]
fn a_port_in_use_stays_with_its_owner() {
    let owner = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = owner.local_addr().unwrap();
    assert_refused("listen", Options::new().listen::<Std>(addr), addr);
    let error = Options::new().group(addr, 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    for _ in 0..20 {
        let mut client = TcpStream::connect(addr).unwrap();
        let (mut stream, _) = owner.accept().unwrap();
        client.write_all(b"ping").unwrap();
        let mut buf = [0; 4];
        stream.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"ping");
    }

    let owner = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = owner.local_addr().unwrap();
    assert_refused(
        "listen_packet",
        Options::new().listen_packet::<Std>(addr),
        addr,
    );
    let error = Options::new().packet_group(addr, 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..20 {
        client.send_to(b"ping", addr).unwrap();
        let mut buf = [0; 8];
        assert_eq!(owner.recv_from(&mut buf).unwrap().0, 4);
    }
}

#[test]
fn an_adopted_listener_echoes() {
    fn check<R: Runtime>() {
        for nonblocking in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            // Each runtime must see to its own mode.
            listener.set_nonblocking(nonblocking).unwrap();
            let addr = listener.local_addr().unwrap();
            let client = thread::spawn(move || {
                let mut stream = TcpStream::connect(addr).unwrap();
                let mut answers = [0; 12];
                for answer in answers.chunks_exact_mut(4) {
                    stream.write_all(b"ping").unwrap();
                    stream.read_exact(answer).unwrap();
                }
                (answers, stream.local_addr().unwrap())
            });
            let peer = R::block_on(async {
                let listener = R::adopt(listener).unwrap();
                assert!(!SockRef::from(&listener).reuse_address().unwrap());
                let (stream, peer) = R::accept(&listener).await.unwrap();
                let mut buf = [0; 1024];
                while let n @ 1.. = R::read(&stream, &mut buf).await.unwrap() {
                    R::write_all(&stream, &buf[..n]).await.unwrap();
                }
                peer
            });
            let (answers, client) = client.join().unwrap();
            assert_eq!(&answers, b"pingpingping", "{}", R::NAME);
            assert_eq!(peer, client, "{}", R::NAME);
        }
    }
    in_every_runtime!(check);
}

#[test]
fn an_adopted_udp_socket_echoes() {
    fn check<R: Runtime>() {
        for nonblocking in [false, true] {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(nonblocking).unwrap();
            let addr = socket.local_addr().unwrap();
            let client = thread::spawn(move || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                let mut buf = [0; 8];
                for _ in 0..3 {
                    socket.send_to(b"ping", addr).unwrap();
                    let (n, from) = socket.recv_from(&mut buf).unwrap();
                    assert_eq!((&buf[..n], from), (&b"ping"[..], addr));
                }
            });
            R::block_on(async {
                let socket = R::adopt_packet(socket).unwrap();
                assert!(!SockRef::from(&socket).reuse_address().unwrap());
                let mut buf = [0; 1024];
                for _ in 0..3 {
                    let (n, peer) = R::recv_from(&socket, &mut buf).await.unwrap();
                    assert_eq!(R::send_to(&socket, &buf[..n], peer).await.unwrap(), n);
                }
            });
            assert!(client.join().is_ok(), "{}", R::NAME);
        }
    }
    in_every_runtime!(check);
}

#[test]
fn what_is_no_listener_is_not_adopted() {
    fn check<R: Runtime>() {
        R::block_on(async {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            let why = "it is a UDP socket, and a TCP listener was meant";
            assert_invalid(R::adopt(udp).map(drop), why);

            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let addr = listener.local_addr().unwrap();
            let connection = TcpStream::connect(addr).unwrap();
            let why = format!("it is a TCP connection with {addr}");
            assert_invalid(R::adopt(connection).map(drop), &why);

            let why = "it is a TCP socket, and a UDP socket was meant";
            assert_invalid(R::adopt_packet(listener).map(drop), why);
        });
    }
    in_every_runtime!(check);
}

#[test]
fn a_group_of_sockets_that_do_not_share_is_not_adopted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_invalid(
        Group::<TcpListener>::adopt([listener]),
        "it does not share its port",
    );
}

/// No process can replace it, and the program is the same as elsewhere.
#[test]
fn a_server_serves_until_it_is_stopped() {
    fn check<R: Runtime>() {
        R::block_on(async {
            let (listener, generation) = Options::new().serve::<R>("127.0.0.1:0").unwrap();
            let addr = reuseport::local_addr(&listener).unwrap();
            assert_eq!(generation.predecessor(), None);
            let mut shutdown = Box::pin(generation.shutdown());
            assert!(smol::future::poll_once(&mut shutdown).await.is_none());
            let mut incoming = generation.incoming::<R>(listener);
            let client = thread::spawn(move || {
                let mut client = TcpStream::connect(addr).unwrap();
                client.read_exact(&mut [0]).unwrap();
            });
            let (stream, _) = incoming.accept().await.unwrap().unwrap();
            R::write_all(&stream, b"!").await.unwrap();
            client.join().unwrap();
            let refused = generation
                .restart(std::process::Command::new("nothing"))
                .await
                .unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!(
                    "cannot restart the server on {addr}: this system does not tell which process takes over"
                )
            );
            assert!(!generation.is_relieved());
            generation.stop();
            shutdown.await;
            assert!(generation.is_relieved());
            assert_eq!(generation.outcome().unwrap(), Drained::default());
            drop(incoming);
            // No socket has the port.
            TcpListener::bind(addr).unwrap();
        });
    }
    in_every_runtime!(check);
    let addr = free_addr();
    let refused = Options::new().generation(addr, 1).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert_eq!(
        refused.to_string(),
        format!(
            "cannot open a generation on {addr}: the process that serves is not found: processes of this \
             system have no place at which to meet"
        )
    );
}
