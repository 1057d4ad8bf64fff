//! Datagrams, of which a new process gets a part before it takes over.

#![cfg(target_os = "linux")]

#[path = "util/packets.rs"]
mod packets;
mod util;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use packets::{Packets, send};
use reuseport::{ConnectionIds, Options, Steering};
use util::in_namespace;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

const PORT: u16 = 4000;

/// Each client's number, if the new process gets what that client sends.
fn to_new(clients: &[UdpSocket], old: &Packets, new: &Packets) -> HashSet<usize> {
    let mut got = HashSet::new();
    for (number, client) in clients.iter().enumerate() {
        client.send(&[7]).unwrap();
        let (to_old, to_new) = (old.read().len(), new.read().len());
        assert_eq!(to_old + to_new, 1, "a datagram is lost");
        got.extend((to_new == 1).then_some(number));
    }
    got
}

#[test]
fn a_flow_stays_as_long_as_the_part_does() {
    for (ip, n, m) in [(V4, 2, 3), (V6, 3, 1)] {
        in_namespace("the flows of a canary", || {
            let addr = SocketAddr::new(ip, PORT);
            let old = Packets::open(&Options::new(), addr, n);
            old.take_over();
            let new = Packets::open(&Options::new(), addr, m);
            let client = |_| {
                let client = UdpSocket::bind((ip, 0)).unwrap();
                client.connect(addr).unwrap();
                client
            };
            let clients: Vec<_> = (0..500).map(client).collect();
            let mut before = HashSet::new();
            for part in [0.02, 0.1, 0.5, 1.0] {
                assert_eq!(new.generation.take_share_blocking(part).unwrap(), part);
                let got = to_new(&clients, &old, &new);
                assert_eq!(got, to_new(&clients, &old, &new), "flows move");
                // Those that it had stay.
                assert!(before.is_subset(&got));
                let share = got.len() as f64 / 500.0;
                // With 500 flows five times the deviation.
                let most = 5.0 * (part * (1.0 - part) / 500.0).sqrt();
                assert!((share - part).abs() <= most.max(0.001), "{share} of {part}");
                assert!(part < 0.1 || share > 0.0);
                before = got;
            }
            new.generation.take_share_blocking(0.1).unwrap();
            let few = to_new(&clients, &old, &new);
            new.generation.take_share_blocking(0.0).unwrap();
            assert!(to_new(&clients, &old, &new).is_empty());
            new.generation.take_share_blocking(0.1).unwrap();
            assert_eq!(few, to_new(&clients, &old, &new));
            new.take_over();
            old.generation.relieved_blocking();
            assert_eq!(to_new(&clients, &old, &new).len(), 500);
        });
    }
}

/// What it was sent before it gave its part back, it can still answer.
#[test]
fn one_that_stops_answers_what_it_has() {
    in_namespace("a canary of datagrams stops", || {
        let addr = SocketAddr::new(V4, PORT);
        let old = Packets::open(&Options::new(), addr, 2);
        old.take_over();
        let new = Packets::open(&Options::new(), addr, 2);
        new.generation.take_share_blocking(1.0).unwrap();
        let client = UdpSocket::bind((V4, 0)).unwrap();
        client.set_read_timeout(Some(util::PATIENCE)).unwrap();
        client.connect(addr).unwrap();
        client.send(b"question").unwrap();
        new.generation.stop();
        util::until(|| {
            send(addr, 1, b"now");
            (!old.read().is_empty()).then_some(())
        });
        let (socket, from) = util::until(|| {
            let mut sockets = new.sockets.iter();
            sockets.find_map(|(_, socket)| {
                let mut packet = [0; 64];
                let (len, from) = socket.recv_from(&mut packet).ok()?;
                (&packet[..len] == b"question").then_some((socket, from))
            })
        });
        new.read();
        new.generation.relieved_blocking();
        socket.send_to(b"answer", from).unwrap();
        assert_eq!(client.recv(&mut [0; 64]).unwrap(), 6);
        drop(new);
        // The next one comes as soon as those are closed.
        let next = Packets::open(&Options::new(), addr, 1);
        next.take_over();
        send(addr, 20, b"new");
        assert_eq!(next.read().len(), 20);
    });
}

#[test]
fn connection_ids_stay_and_the_part_is_of_new_flows() {
    in_namespace("a canary under connection ids", || {
        let addr = SocketAddr::new(V4, PORT);
        let ids = Steering::ConnectionIds(ConnectionIds::at(0));
        let options = Options::new().steering(ids);
        let old = Packets::open(&options, addr, 3);
        old.take_over();
        let new = Packets::open(&options, addr, 2);
        assert_eq!((old.numbers(), new.numbers()), (vec![0, 1, 2], vec![3, 4]));
        let of = |packets: &Packets, other: &Packets, id: u8| {
            send(addr, 20, &[id]);
            let read = packets.read();
            assert!(read.iter().all(|(number, _)| *number == usize::from(id)));
            assert_eq!((read.len(), other.read().len()), (20, 0), "{id}");
        };
        for part in [0.5, 1.0, 0.0] {
            new.generation.take_share_blocking(part).unwrap();
            (0..3).for_each(|id| of(&old, &new, id));
            // It has given these out while it had a part.
            (3..5).for_each(|id| of(&new, &old, id));
            send(addr, 200, &[200]);
            let got = new.read().len();
            assert_eq!(old.read().len(), 200 - got);
            let expected = 200.0 * part;
            assert!(
                (got as f64 - expected).abs() <= 60.0 * part * (1.0 - part) * 4.0,
                "{got} of {expected}"
            );
        }
        new.take_over();
        old.generation.relieved_blocking();
        (0..3).for_each(|id| of(&old, &new, id));
        (3..5).for_each(|id| of(&new, &old, id));
    });
}
