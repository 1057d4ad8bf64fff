//! The hash spreads connections and flows of datagrams evenly over the members of a group.

#![cfg(target_os = "linux")]

mod util;

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};

use reuseport::Options;
use socket2::{Domain, Socket, Type};

/// The sizes of groups, and the chi-square that chance exceeds once in 10^10 runs.
const GROUPS: [(usize, f64); 3] = [(2, 41.9), (4, 49.6), (16, 79.2)];

const CLIENTS: usize = 20_000;

/// Fewer than any queue holds: a somaxconn of 128 is the smallest that was ever common.
const BATCH: usize = 100;

/// Every client has an address and port that none had before it: the hash is of both, and one that
/// is repeated would count twice.
fn client(number: usize, r#type: Type) -> Socket {
    const PORTS: usize = 5_000;
    let ip = Ipv4Addr::new(127, 0, 1, (1 + number / PORTS) as u8);
    let port = (20_000 + number % PORTS) as u16;
    let socket = Socket::new(Domain::IPV4, r#type, None).unwrap();
    socket.bind(&SocketAddrV4::new(ip, port).into()).unwrap();
    socket
}

fn assert_even(counts: &[usize], bound: f64) {
    let expected = CLIENTS as f64 / counts.len() as f64;
    let chi_square: f64 = counts
        .iter()
        .map(|&count| (count as f64 - expected).powi(2) / expected)
        .sum();
    assert_eq!(counts.iter().sum::<usize>(), CLIENTS, "{counts:?}");
    assert!(chi_square < bound, "{counts:?}: chi-square {chi_square}");
}

#[test]
fn connections() {
    util::in_namespace("that the hash spreads connections evenly", || {
        for (n, bound) in GROUPS {
            let group = Options::new().group("127.0.0.1:0", n).unwrap();
            let addr = group.local_addr().into();
            let listeners: Vec<TcpListener> = group.into_iter().map(|m| m.into_std()).collect();
            for listener in &listeners {
                listener.set_nonblocking(true).unwrap();
            }
            let mut counts = vec![0; n];
            for start in (0..CLIENTS).step_by(BATCH) {
                let clients: Vec<_> = (start..start + BATCH)
                    .map(|number| {
                        let client = client(number, Type::STREAM);
                        client.connect(&addr).unwrap();
                        // Closing sends a reset, and leaves nothing behind in TIME_WAIT.
                        client.set_linger(Some(std::time::Duration::ZERO)).unwrap();
                        client
                    })
                    .collect();
                for (count, listener) in counts.iter_mut().zip(&listeners) {
                    *count += std::iter::from_fn(|| listener.accept().ok()).count();
                }
                drop(clients);
            }
            assert_even(&counts, bound);
        }
    });
}

#[test]
fn flows_of_datagrams() {
    util::in_namespace("that the hash spreads flows of datagrams evenly", || {
        for (n, bound) in GROUPS {
            let group = Options::new().packet_group("127.0.0.1:0", n).unwrap();
            let addr = group.local_addr().into();
            let sockets: Vec<UdpSocket> = group.into_iter().map(|m| m.into_std()).collect();
            for socket in &sockets {
                socket.set_nonblocking(true).unwrap();
            }
            let mut counts = vec![0; n];
            for start in (0..CLIENTS).step_by(BATCH) {
                for number in start..start + BATCH {
                    let client = client(number, Type::DGRAM);
                    client.send_to(b"first", &addr).unwrap();
                    client.send_to(b"second", &addr).unwrap();
                }
                for (count, socket) in counts.iter_mut().zip(&sockets) {
                    let mut peers = Vec::new();
                    while let Ok((_, peer)) = socket.recv_from(&mut [0; 10]) {
                        peers.push(peer);
                    }
                    // Both of a flow are at one member, which one has read them before the other.
                    assert!(peers.chunks(2).all(|pair| pair[0] == pair[1]), "{peers:?}");
                    *count += peers.len() / 2;
                }
            }
            assert_even(&counts, bound);
        }
    });
}
