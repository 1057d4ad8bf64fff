//! What opening a socket costs in allocations: none of this crate's own.

#![cfg(unix)]

#[path = "../../tests/util/mod.rs"]
mod util;

use std::net::{SocketAddr, TcpListener, UdpSocket};

use allocation_counter::measure;
use reuseport::{AsyncStd, Options, ReusePort, Smol, Std, Tokio};
use smol::Async;
use util::Runtime;

/// How many allocations one call makes, when a call before it has warmed everything up.
fn allocations<T>(f: impl Fn() -> T) -> u64 {
    allocations_with(|| (), |()| f())
}

/// As `allocations`, without those of making the argument.
fn allocations_with<S, T>(argument: impl Fn() -> S, f: impl Fn(S) -> T) -> u64 {
    drop(f(argument()));
    let argument = argument();
    measure(|| drop(f(argument))).count_total
}

/// Addresses that two sockets hold, so that they stay whose they are.
fn held() -> (TcpListener, UdpSocket, SocketAddr, SocketAddr) {
    let tcp = Std::listen("127.0.0.1:0").unwrap();
    let udp = Std::listen_packet("127.0.0.1:0").unwrap();
    let addrs = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    (tcp, udp, addrs.0, addrs.1)
}

/// What std itself opens, for the runtime's own constructor.
fn nonblocking_listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn nonblocking_udp() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Else the zeros below would prove nothing.
#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| std::hint::black_box(Box::new(1))), 1);
}

#[test]
fn std_allocates_nothing() {
    let (_tcp, _udp, tcp, udp) = held();
    assert_eq!(allocations(|| Std::listen(tcp).unwrap()), 0);
    assert_eq!(allocations(|| Std::listen_packet(udp).unwrap()), 0);
}

#[test]
fn text_and_port_0_allocate_nothing() {
    assert_eq!(allocations(|| Std::listen("127.0.0.1:0").unwrap()), 0);
    assert_eq!(allocations(|| Std::listen("localhost:0").unwrap()), 0);
    assert_eq!(
        allocations(|| Std::listen_packet("127.0.0.1:0").unwrap()),
        0
    );
}

/// For the list of its members, and for its roster and the list and the map in that, however many
/// there are.
#[test]
fn a_group_allocates_four_times() {
    let options = Options::new();
    for n in [1, 64] {
        assert_eq!(allocations(|| options.group("127.0.0.1:0", n).unwrap()), 4);
        assert_eq!(
            allocations(|| options.packet_group("127.0.0.1:0", n).unwrap()),
            4
        );
    }
}

#[test]
fn tokio_allocates_what_from_std_does() {
    use tokio::net::{TcpListener, UdpSocket};
    let (_tcp, _udp, tcp, udp) = held();
    Tokio::block_on(async {
        assert_eq!(
            allocations(|| Tokio::listen(tcp).unwrap()),
            allocations_with(nonblocking_listener, |l| TcpListener::from_std(l).unwrap()),
        );
        assert_eq!(
            allocations(|| Tokio::listen_packet(udp).unwrap()),
            allocations_with(nonblocking_udp, |s| UdpSocket::from_std(s).unwrap()),
        );
    });
}

#[test]
fn smol_allocates_what_new_nonblocking_does() {
    use smol::net::{TcpListener, UdpSocket};
    let (_tcp, _udp, tcp, udp) = held();
    Smol::block_on(async {
        assert_eq!(
            allocations(|| Smol::listen(tcp).unwrap()),
            allocations_with(nonblocking_listener, |l| {
                TcpListener::from(Async::new_nonblocking(l).unwrap())
            }),
        );
        assert_eq!(
            allocations(|| Smol::listen_packet(udp).unwrap()),
            allocations_with(nonblocking_udp, |s| {
                UdpSocket::from(Async::new_nonblocking(s).unwrap())
            }),
        );
    });
}

#[test]
fn async_std_allocates_what_from_does() {
    use async_std::net::{TcpListener, UdpSocket};
    let (_tcp, _udp, tcp, udp) = held();
    AsyncStd::block_on(async {
        assert_eq!(
            allocations(|| AsyncStd::listen(tcp).unwrap()),
            allocations_with(nonblocking_listener, TcpListener::from),
        );
        assert_eq!(
            allocations(|| AsyncStd::listen_packet(udp).unwrap()),
            allocations_with(nonblocking_udp, UdpSocket::from),
        );
    });
}

/// Nor does reading and writing, also where it has to wait.
fn a_round_trip_allocates_nothing<R: Runtime>() {
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::task::Poll;

    R::block_on(async {
        let listener = R::listen("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(util::addr_of(&listener)).unwrap();
        let (stream, _) = R::accept(&listener).await.unwrap();
        let mut buf = [0; 16];
        let mut counts = Vec::new();
        for _ in 0..3 {
            let mut waits = R::NONBLOCKING;
            if !waits {
                client.write_all(b"ask").unwrap();
            }
            let mut count = 0;
            poll_fn(|context| {
                let mut read = Poll::Pending;
                let measured = measure(|| read = R::poll_read(&stream, context, &mut buf));
                count += measured.count_total;
                if std::mem::take(&mut waits) {
                    assert!(read.is_pending());
                    client.write_all(b"ask").unwrap();
                }
                read.map(|read| assert_eq!(read.unwrap(), 3))
            })
            .await;
            poll_fn(|context| {
                let mut written = Poll::Pending;
                let measured = measure(|| written = R::poll_write(&stream, context, b"answer"));
                count += measured.count_total;
                written.map(|written| assert_eq!(written.unwrap(), 6))
            })
            .await;
            client.read_exact(&mut [0; 6]).unwrap();
            counts.push(count);
        }
        // The first warms everything up.
        assert_eq!(counts[1..], [0, 0], "{}: {counts:?}", R::NAME);
    });
}

#[test]
fn a_round_trip() {
    a_round_trip_allocates_nothing::<Std>();
    a_round_trip_allocates_nothing::<Tokio>();
    a_round_trip_allocates_nothing::<Smol>();
    a_round_trip_allocates_nothing::<AsyncStd>();
}
