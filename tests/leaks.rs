//! No descriptor is left behind, on any path that fails; alone in its process, whose descriptors
//! are counted.

#![cfg(target_os = "linux")]

mod util;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reuseport::{AsyncStd, Group, Member, Options, Smol, Socket, Std, Tokio};
use util::{Runtime, addr_of, descriptors};

/// Everything that can fail for one runtime, and its success too.
fn everything<R: Runtime>(held: SocketAddr, peer: SocketAddr) {
    let failing = |at: usize| {
        let calls = Arc::new(AtomicUsize::new(0));
        Options::new().before_bind(move |_| match calls.fetch_add(1, Ordering::Relaxed) {
            call if call == at => Err(io::Error::other("refused")),
            _ => Ok(()),
        })
    };
    for addr in [held, "192.0.2.1:80".parse().unwrap()] {
        assert!(R::listen(addr).is_err());
        assert!(R::listen_packet(addr).is_err());
        assert!(Options::new().group(addr, 3).is_err());
        assert!(Options::new().packet_group(addr, 3).is_err());
    }
    assert!(R::listen("nowhere:80").is_err());
    assert!(failing(0).listen::<R>("127.0.0.1:0").is_err());
    assert!(failing(0).listen_packet::<R>("127.0.0.1:0").is_err());
    assert!(failing(3).group("127.0.0.1:0", 4).is_err());
    assert!(failing(3).packet_group("127.0.0.1:0", 4).is_err());
    assert!(
        Options::new()
            .device("nowhere0")
            .group("127.0.0.1:0", 4)
            .is_err()
    );

    assert!(R::adopt(std::fs::File::open("/dev/null").unwrap()).is_err());
    assert!(R::adopt(UdpSocket::bind("127.0.0.1:0").unwrap()).is_err());
    assert!(R::adopt_packet(TcpListener::bind("127.0.0.1:0").unwrap()).is_err());
    assert!(Member::<TcpListener>::adopt(TcpListener::bind("127.0.0.1:0").unwrap()).is_err());
    let mut fds: Vec<OwnedFd> = Options::new()
        .group("127.0.0.1:0", 3)
        .unwrap()
        .into_iter()
        .map(Into::into)
        .collect();
    fds.insert(1, TcpListener::bind("127.0.0.1:0").unwrap().into());
    assert!(Group::<TcpListener>::adopt(fds).is_err());

    R::block_on(async {
        let listener = R::listen("127.0.0.1:0").unwrap();
        let local = addr_of(&listener);
        let stream = R::dial(local, peer).await.unwrap();
        assert!(R::dial(local, peer).await.is_err());
        assert!(R::dial(local, local).await.is_err());
        assert!(
            R::dial(SocketAddr::from(([0, 0, 0, 0], local.port())), local)
                .await
                .is_err()
        );
        assert!(
            R::dial(local, "127.0.0.1:1".parse().unwrap())
                .await
                .is_err()
        );
        assert!(R::dial(held, peer).await.is_err());
        drop((listener, stream));
        for member in Options::new().group("127.0.0.1:0", 300).unwrap() {
            drop(member.attach::<R>().unwrap());
        }
    });
    // Out of any runtime, tokio takes nothing.
    let _ = R::listen("127.0.0.1:0");
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    for member in group {
        let _ = member.attach::<R>();
    }
}

/// Members come and go.
fn scale<S: Kind>() {
    let group = S::group(4);
    let roster = group.roster();
    let mut members: Vec<_> = group.into_iter().collect();
    drop(roster.leave(0).unwrap());
    assert!(roster.leave(1).unwrap().wait().unwrap().is_empty());
    let waits = roster.leave(2).unwrap();
    roster.close(2).unwrap();
    roster.close(3).unwrap();
    assert!(roster.close(3).is_err());
    members.push(roster.join().unwrap());
    drop(members);
    assert!(waits.wait().unwrap().is_empty());
    assert!(roster.leave(0).is_err());
}

trait Kind: Socket + Sized {
    fn group(n: usize) -> Group<Self>;
}

impl Kind for TcpListener {
    fn group(n: usize) -> Group<Self> {
        Options::new().group("127.0.0.1:0", n).unwrap()
    }
}

impl Kind for UdpSocket {
    fn group(n: usize) -> Group<Self> {
        Options::new().packet_group("127.0.0.1:0", n).unwrap()
    }
}

/// The threads that wait for members that leave have ended, which they do some milliseconds later.
fn nothing_waits() -> bool {
    let names = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        names.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.starts_with("reuseport-")).count() == 0
}

#[test]
fn no_path_leaves_a_descriptor() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = holder.local_addr().unwrap();
    let _udp = UdpSocket::bind(held).unwrap();
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let all = || {
        everything::<Std>(held, addr_of(&peer));
        everything::<Tokio>(held, addr_of(&peer));
        everything::<AsyncStd>(held, addr_of(&peer));
        everything::<Smol>(held, addr_of(&peer));
        scale::<TcpListener>();
        scale::<UdpSocket>();
    };
    // The first round starts the reactors, which live as long as the process.
    all();
    util::until(|| nothing_waits().then_some(()));
    let before = descriptors();
    for _ in 0..10 {
        all();
    }
    util::until(|| nothing_waits().then_some(()));
    assert_eq!(descriptors(), before);
}
