//! Groups whose members have one queue together, which work on every system and in every runtime.

#![cfg(any(unix, windows))]

#[macro_use]
mod util;

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};

use reuseport::{Group, Options, Spread, Steering, support};
use util::Runtime;

fn group(n: usize) -> Group<TcpListener> {
    Options::new()
        .spread(Spread::Queue)
        .group("127.0.0.1:0", n)
        .unwrap()
}

fn packet_group(n: usize) -> Group<UdpSocket> {
    Options::new()
        .spread(Spread::Queue)
        .packet_group("127.0.0.1:0", n)
        .unwrap()
}

on_every_runtime!(
    one_worker_serves_all_connections one_worker_serves_all_datagrams every_member_takes_some
);

/// Of three members two never accept, and nothing waits for them.
fn one_worker_serves_all_connections<R: Runtime>() {
    let group = group(3);
    let addr = group.local_addr();
    R::block_on(async {
        let listeners: Vec<_> = group
            .into_iter()
            .map(|member| member.attach::<R>().unwrap())
            .collect();
        for _ in 0..30 {
            let mut client = TcpStream::connect(addr).unwrap();
            let (stream, _) = R::accept(&listeners[1]).await.unwrap();
            R::write_all(&stream, b"!").await.unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
    });
}

fn one_worker_serves_all_datagrams<R: Runtime>() {
    let group = packet_group(3);
    let addr = group.local_addr();
    let clients: Vec<_> = (0..30)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    R::block_on(async {
        let sockets: Vec<_> = group
            .into_iter()
            .map(|member| member.attach::<R>().unwrap())
            .collect();
        for client in &clients {
            let _sending = util::keep_sending(client, b"?", addr);
            let own = client.local_addr().unwrap();
            while R::recv_from(&sockets[2], &mut [0; 8]).await.unwrap() != (1, own) {}
        }
    });
}

/// Whichever member asks gets the next.
fn every_member_takes_some<R: Runtime>() {
    let (tcp, udp) = (group(4), packet_group(4));
    R::block_on(async {
        let (to, clients) = (tcp.local_addr(), 0..4);
        let clients: Vec<_> = clients.map(|_| TcpStream::connect(to).unwrap()).collect();
        for member in tcp {
            let listener = member.attach::<R>().unwrap();
            let (_, from) = R::accept(&listener).await.unwrap();
            assert!(
                clients
                    .iter()
                    .any(|client| client.local_addr().unwrap() == from)
            );
        }
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..3 {
            client.send_to(b"?", udp.local_addr()).unwrap();
        }
        let _sending = util::keep_sending(&client, b"?", udp.local_addr());
        for member in udp {
            let socket = member.attach::<R>().unwrap();
            assert_eq!(R::recv_from(&socket, &mut [0; 8]).await.unwrap().0, 1);
        }
    });
}

#[test]
fn a_group_says_how_it_spreads() {
    let best = match support().spreads {
        true => Spread::Kernel,
        false => Spread::Queue,
    };
    assert_eq!(
        Options::new().group("127.0.0.1:0", 2).unwrap().spread(),
        best
    );
    assert_eq!(group(2).spread(), Spread::Queue);
    assert_eq!(packet_group(2).spread(), Spread::Queue);
    assert_eq!(
        group(3)
            .iter()
            .map(|member| member.number())
            .collect::<Vec<_>>(),
        [0, 1, 2]
    );
}

#[test]
fn a_group_with_one_queue_is_new_too() {
    let first = group(2);
    let again = Options::new().spread(Spread::Queue);
    let error = again.group(first.local_addr(), 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    if support().shares {
        assert_eq!(
            again.join(true).group(first.local_addr(), 2).unwrap().len(),
            2
        );
    }
}

/// The port is held as long as one member is open.
#[test]
fn the_last_member_takes_the_port_away() {
    let group = group(3);
    let addr = group.local_addr();
    let mut members: Vec<_> = group.into_iter().collect();
    while let Some(member) = members.pop() {
        let _client = TcpStream::connect(addr).unwrap();
        let listener = member.into_std();
        listener.accept().unwrap();
    }
    let refused = TcpStream::connect(addr).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn there_is_nothing_to_steer() {
    let group = group(2);
    group.steer(&Steering::Hash).unwrap();
    let error = group.steer(&Steering::Weights(vec![1, 1])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(
        error
            .to_string()
            .ends_with(": its members have one queue together, and nothing to choose"),
        "{error}"
    );
    assert!(group.roster().places().is_empty());
    let options = Options::new().spread(Spread::Queue).steering(Steering::Cpu);
    assert_eq!(
        options.group("127.0.0.1:0", 2).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
}

/// No kernel's limit on groups holds for it.
#[test]
fn descriptors_are_the_only_limit() {
    assert_eq!(group(300).len(), 300);
}
