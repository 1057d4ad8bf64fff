//! What the crate tells a collector of tracing's events, and that it tells each thing once.

#![cfg(target_os = "linux")]

#[path = "../../tests/util/mod.rs"]
mod util;

use std::io::{self, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};

use reuseport::{Group, Options, ReusePort, Std, Steering};
use util::addr_of;

/// Collects what is written.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that `f` makes the crate tell.
fn told(f: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .without_time()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, f);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes)
        .unwrap()
        .lines()
        .map(|line| line.trim().to_owned())
        .collect()
}

#[test]
fn what_is_done_is_told_once() {
    let mut addr = None;
    let lines = told(|| addr = Some(addr_of(&Std::listen("127.0.0.1:0").unwrap())));
    let addr = addr.unwrap();
    // Not port 0, but the port that it became.
    assert_eq!(
        lines,
        [format!(
            "DEBUG reuseport: opened protocol=\"TCP\" addr=Some({addr})"
        )]
    );

    let mut addr = None;
    let lines = told(|| {
        let weights = Steering::Weights(vec![1, 2]);
        let group = Options::new()
            .steering(weights)
            .packet_group("127.0.0.1:0", 2)
            .unwrap();
        addr = Some(group.local_addr());
        let roster = group.roster();
        roster.close(0).unwrap();
        let _again = roster.join().unwrap();
        drop(roster.leave(1).unwrap());
    });
    let addr = addr.unwrap();
    assert_eq!(
        lines,
        [
            format!(
                "DEBUG reuseport: opened a group protocol=\"UDP\" addr={addr} members=2 spread=Kernel"
            ),
            format!("DEBUG reuseport: steered addr={addr} detail=\"Weights([1, 2])\""),
            format!("DEBUG reuseport: a member has left addr={addr} member=0 detail=\"[Some(1)]\""),
            format!(
                "DEBUG reuseport: a member joined addr={addr} member=0 detail=\"[Some(1), Some(0)]\""
            ),
            format!("DEBUG reuseport: a member leaves addr={addr} member=1 detail=\"Lossless\""),
        ]
    );

    let held = Std::listen("127.0.0.1:0").unwrap();
    let addr = addr_of(&held);
    let lines = told(|| drop(Options::new().join(true).group(addr, 2).unwrap()));
    assert_eq!(
        lines,
        [format!(
            "DEBUG reuseport: joined a group protocol=\"TCP\" addr={addr} members=2 spread=Kernel"
        )]
    );

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = addr_of(&listener);
    let lines = told(|| drop(Std::adopt(listener).unwrap()));
    assert_eq!(
        lines,
        [format!(
            "DEBUG reuseport: adopted protocol=\"TCP\" addr={addr}"
        )]
    );

    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = addr_of(&peer);
    let lines = told(|| drop(Options::new().dial_blocking("127.0.0.1:0", remote).unwrap()));
    assert_eq!(
        lines,
        [format!(
            "DEBUG reuseport: dialed local=127.0.0.1:0 remote={remote}"
        )]
    );
}

#[test]
fn every_refusal_is_told_once_with_its_reason() {
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = addr_of(&plain);
    let udp = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let steering = || Options::new().steering(Steering::Weights(vec![1]));
    type Refuse = Box<dyn FnOnce()>;
    let refusals: [(&str, Refuse); 9] = [
        (
            "did not set SO_REUSEPORT",
            Box::new(move || drop(Std::listen(held).unwrap_err())),
        ),
        (
            "is a name",
            Box::new(|| drop(Std::listen_packet("nowhere:1").unwrap_err())),
        ),
        (
            "did not set",
            Box::new(move || drop(Options::new().group(held, 2).unwrap_err())),
        ),
        (
            "there are 1 weights",
            Box::new(move || drop(steering().group("127.0.0.1:0", 2).unwrap_err())),
        ),
        (
            "all weights are 0",
            Box::new(|| {
                let group = Options::new().group("127.0.0.1:0", 1).unwrap();
                drop(group.steer(&Steering::Weights(vec![0])).unwrap_err());
            }),
        ),
        (
            "UDP socket",
            Box::new(move || drop(Std::adopt(udp()).unwrap_err())),
        ),
        (
            "UDP socket",
            Box::new(move || drop(Group::<TcpListener>::adopt([udp()]).unwrap_err())),
        ),
        (
            "the port itself",
            Box::new(move || drop(Options::new().dial_blocking(held, held).unwrap_err())),
        ),
        (
            "no reactor",
            Box::new(|| drop(reuseport::Tokio::listen("127.0.0.1:0").unwrap_err())),
        ),
    ];
    for (why, refuse) in refusals {
        let lines = told(refuse);
        let refused: Vec<_> = lines
            .iter()
            .filter(|line| line.contains(": refused error="))
            .collect();
        assert_eq!(refused.len(), 1, "{lines:?}");
        assert!(refused[0].contains(why), "{why}: {lines:?}");
    }
}

/// What keeps the next process waiting has a name, a second after it began to wait.
#[cfg(target_os = "linux")]
#[test]
fn a_member_that_is_stuck_is_told_and_that_it_accepts_again() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let addr = group.local_addr();
    let balancer = group.roster().balance().unwrap();
    let mut balancer = balancer.patience(std::time::Duration::ZERO);
    let _client = std::net::TcpStream::connect(addr).unwrap();
    let mut stuck = None;
    let lines = told(|| {
        stuck = Some(util::until(|| {
            balancer.step().unwrap().stuck.first().copied()
        }));
        balancer.step().unwrap();
        let listener = group.into_iter().nth(stuck.unwrap()).unwrap().into_std();
        listener.accept().unwrap();
        assert!(balancer.step().unwrap().stuck.is_empty());
    });
    let member = stuck.unwrap();
    let lines: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("stuck") || line.contains("accepts"))
        .collect();
    assert_eq!(
        lines,
        [
            &format!("WARN reuseport: a member is stuck addr={addr} member={member} waiting=\"1\""),
            &format!("DEBUG reuseport: a member accepts again addr={addr} member={member}"),
        ]
    );
}

#[test]
fn what_is_waited_for_is_told() {
    let [.., high, low] = std::process::id().to_be_bytes();
    let addr = std::net::SocketAddr::from(([127, high | 1, low, 9], 4000));
    let (_first, serves) = Options::new().generation(addr, 1).unwrap();
    serves
        .take_over_blocking(std::time::Duration::from_secs(60))
        .unwrap();
    let (_second, hangs) = Options::new().generation(addr, 1).unwrap();
    // Five seconds later the second has had its time.
    let lines = told(|| drop(Options::new().generation(addr, 1).unwrap()));
    let waits: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("waits to take over"))
        .collect();
    assert_eq!(waits.len(), 1, "{lines:?}");
    assert!(waits[0].starts_with("WARN reuseport: "), "{waits:?}");
    assert!(waits[0].contains("is about to take over"), "{waits:?}");
    assert!(
        waits[0].contains(&format!("process {}", std::process::id())),
        "{waits:?}"
    );
    drop(hangs);
}
