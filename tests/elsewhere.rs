//! What holds on every kernel that shares, emulated and sandboxed ones included.
//!
//! CI runs this file under gVisor and on emulated processors too, where most other tests ask for
//! too much.

#![cfg(unix)]

#[path = "util/incoming.rs"]
mod incoming;
#[macro_use]
mod util;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;

use reuseport::{
    Generation, Options, Protocol, ReusePort, Spread, Std, occupants, packet_queue, queue, support,
};
use socket2::SockRef;
use util::{PATIENCE, Runtime, addr_of, assert_drained};

on_every_runtime!(an_instance_joins the_next_generation_loses_nothing);

/// A server of two workers, of which each says how many clients it has had when nothing more comes.
struct Server {
    generation: Generation,
    workers: Vec<JoinHandle<usize>>,
}

impl Server {
    fn start<R: Runtime>(options: &Options, addr: SocketAddr) -> Self {
        let (group, generation) = options.generation(addr, 2).unwrap();
        let members = group.into_iter();
        let workers = members.map(|member| incoming::answering::<R>(member, &generation, b'!'));
        let workers = workers.collect();
        assert_drained(generation.take_over_blocking(PATIENCE));
        Self {
            generation,
            workers,
        }
    }

    fn ended(self) -> usize {
        let workers = self.workers.into_iter();
        let accepted = workers.map(|worker| worker.join().unwrap()).sum();
        assert_drained(self.generation.outcome());
        accepted
    }
}

/// By the way that this kernel has, and by one queue, which every kernel has.
fn the_next_generation_loses_nothing<R: Runtime>() {
    let folder = std::env::temp_dir().join(format!("rp-{}-{}", R::NAME, std::process::id()));
    for options in [
        Options::new(),
        Options::new().spread(Spread::Queue),
        Options::new().spread(Spread::Queue).rendezvous(&folder),
    ] {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = addr_of(&free);
        drop(free);
        let clients = move || {
            for _ in 0..20 {
                let mut client = TcpStream::connect(addr).unwrap();
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                client.read_exact(&mut [0]).unwrap();
            }
        };
        let mut old = Server::start::<R>(&options, addr);
        let mut accepted = 0;
        for _ in 0..3 {
            let asked = std::thread::spawn(clients);
            let new = Server::start::<R>(&options, addr);
            assert!(new.generation.predecessor().is_some());
            accepted += old.ended();
            asked.join().unwrap();
            old = new;
        }
        old.generation.stop();
        assert_eq!(accepted + old.ended(), 60);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

fn an_instance_joins<R: Runtime>() {
    R::block_on(async {
        let first = R::listen("127.0.0.1:0").unwrap();
        let second = R::listen(addr_of(&first)).unwrap();
        assert_eq!(addr_of(&first), addr_of(&second));
        let first = R::listen_packet("127.0.0.1:0").unwrap();
        let second = R::listen_packet(addr_of(&first)).unwrap();
        assert_eq!(addr_of(&first), addr_of(&second));

        let stream = R::dial("127.0.0.1:0", addr_of(&R::listen("127.0.0.1:0").unwrap())).await;
        drop(stream.unwrap());
    });
}

#[test]
fn a_group_is_new() {
    for n in [1, 3] {
        let group = Options::new().group("127.0.0.1:0", n).unwrap();
        let addr = group.local_addr();
        let error = Options::new().group(addr, 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
        let more = Options::new().join(true).group(addr, 2).unwrap();
        drop((group, more));
        assert_eq!(Options::new().group(addr, 2).unwrap().len(), 2);

        let group = Options::new().packet_group("127.0.0.1:0", n).unwrap();
        let addr = group.local_addr();
        let error = Options::new().packet_group(addr, 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
        Std::listen_packet(addr).unwrap();
        drop(group);
        assert_eq!(Options::new().packet_group(addr, 2).unwrap().len(), 2);
    }
}

#[test]
fn every_member_gets_some() {
    if !support().spreads {
        return util::skip("that the load is spread (this system does not)");
    }
    let group = Options::new().group("127.0.0.1:0", 3).unwrap();
    let clients: Vec<_> = (0..60)
        .map(|_| TcpStream::connect(group.local_addr()).unwrap())
        .collect();
    for member in &group {
        SockRef::from(member).set_nonblocking(true).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while SockRef::from(member).accept().is_err() {
            assert!(
                std::time::Instant::now() < deadline,
                "a member gets none of {}",
                clients.len()
            );
            std::thread::yield_now();
        }
    }
    let group = Options::new().packet_group("127.0.0.1:0", 3).unwrap();
    for _ in 0..60 {
        UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .send_to(b"?", group.local_addr())
            .unwrap();
    }
    for member in group {
        let socket = member.into_std();
        socket
            .set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .unwrap();
        socket.recv(&mut [0; 8]).unwrap();
    }
}

#[test]
fn a_plain_holder_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = Std::listen(addr_of(&listener)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let sentence = format!("cannot share {}: ", addr_of(&listener));
    assert!(error.to_string().starts_with(&sentence), "{error}");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(
        Std::listen_packet(addr_of(&socket)).unwrap_err().kind(),
        ErrorKind::AddrInUse
    );
}

#[test]
fn what_listens_is_adopted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr: SocketAddr = addr_of(&listener);
    assert_eq!(addr_of(&Std::adopt(listener).unwrap()), addr);
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(addr_of(&peer));
    let text = stream.map(|stream| Std::adopt(stream).unwrap_err().to_string());
    assert!(text.is_ok_and(|text| text.contains("a TCP connection with")));
}

/// A kernel that does not tell of a queue must not be taken for one that says it is empty.
#[test]
fn what_is_told_of_queues_is_true() {
    let listener = Options::new()
        .backlog(7)
        .listen::<Std>("127.0.0.1:0")
        .unwrap();
    let addr = addr_of(&listener);
    let socket = Std::listen_packet(addr).unwrap();
    let _waiting = [(); 3].map(|()| TcpStream::connect(addr).unwrap());
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"?", addr).unwrap();
    socket.peek(&mut [0; 8]).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let told = loop {
        match queue(&listener) {
            Ok(queue) if queue.waiting < 3 => assert!(std::time::Instant::now() < deadline),
            Ok(queue) => {
                assert_eq!((queue.waiting, queue.limit), (3, 7));
                assert!(packet_queue(&socket).unwrap().waiting > 0);
                break true;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                let error = packet_queue(&socket).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                break false;
            }
        }
    };
    let all = match occupants(addr.port()) {
        Ok(all) => all,
        Err(error) => return assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
    };
    // An emulator of another byte order hands the host's tables on, in which addresses look wrong.
    let ours: Vec<_> = all.iter().filter(|socket| socket.ours).collect();
    assert_eq!(ours.len(), 2, "{all:?}");
    assert_eq!(
        (ours[0].protocol, ours[1].protocol),
        (Protocol::Tcp, Protocol::Udp)
    );
    assert!(told || ours[0].waiting.is_none(), "{all:?}");
    assert!(
        ours[0].waiting.is_none_or(|waiting| waiting == 3),
        "{all:?}"
    );
    assert!(ours[1].waiting.is_none_or(|waiting| waiting > 0), "{all:?}");
}
