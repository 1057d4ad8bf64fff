//! What is seen of queues and of who is on a port.

#![cfg(target_os = "linux")]

mod util;

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use std::{fs, process, thread};

use reuseport::{Occupant, Options, Protocol, ReusePort, Std, occupants, packet_queue, queue};
use socket2::{Domain, SockRef, Socket, Type};
use util::{Keeper, addr_of, as_user, in_namespace};

const OTHER: u32 = 65_534;

/// Waits for what the kernel does in its own time, which is not long.
#[track_caller]
fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}

fn inode(socket: &impl AsFd) -> u64 {
    let file = File::from(socket.as_fd().try_clone_to_owned().unwrap());
    file.metadata().unwrap().ino()
}

/// What is at the address with that protocol; other tests may have the port at other addresses.
fn at(addr: SocketAddr, protocol: Protocol) -> Vec<Occupant> {
    let mut all = occupants(addr.port()).unwrap();
    all.retain(|socket| socket.protocol == protocol && socket.addr == addr);
    all
}

fn only(addr: SocketAddr, protocol: Protocol) -> Occupant {
    let mut all = at(addr, protocol);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// Begins to connect, and does not wait.
fn knock(addr: SocketAddr) -> Socket {
    let client = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
    client.set_nonblocking(true).unwrap();
    let error = client.connect(&addr.into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
    client
}

fn accept_queues_are_exact() {
    for backlog in [1, 7, 100] {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let listener = Options::new().backlog(backlog).listen::<Std>(addr).unwrap();
            let addr = addr_of(&listener);
            let mut clients = Vec::new();
            // One more than the limit is let in.
            for n in 0..=backlog + 1 {
                eventually("every connection is counted", || {
                    queue(&listener).unwrap().waiting == n
                });
                let now = queue(&listener).unwrap();
                assert_eq!((now.waiting, now.limit, now.drops), (n, backlog, 0));
                if [0, 1, backlog, backlog + 1].contains(&n) {
                    let seen = only(addr, Protocol::Tcp);
                    assert_eq!((seen.waiting, seen.addr, seen.peer), (Some(n), addr, None));
                    assert_eq!((seen.limit, seen.drops), (Some(backlog), Some(0)));
                }
                if n <= backlog {
                    clients.push(TcpStream::connect(addr).unwrap());
                }
            }
            for n in (0..=backlog).rev() {
                drop(listener.accept().unwrap());
                assert_eq!(queue(&listener).unwrap().waiting, n);
            }
        }
    }
}

#[test]
fn accept_queues_have_their_exact_length_and_limit() {
    accept_queues_are_exact();
}

#[test]
fn another_user_sees_queues_too() {
    as_user(OTHER, "the queues that another user sees", || {
        accept_queues_are_exact();
        datagrams_are_counted();
    });
}

/// A limit that is changed while the listener lives is seen at once.
#[test]
fn the_limit_is_the_kernels() {
    in_namespace("the limit of a queue", || {
        fs::write("/proc/sys/net/core/somaxconn", "50").unwrap();
        let listener = Std::listen("127.0.0.1:0").unwrap();
        assert_eq!(queue(&listener).unwrap().limit, 50);
        SockRef::from(&listener).listen(20).unwrap();
        assert_eq!(queue(&listener).unwrap().limit, 20);
        SockRef::from(&listener).listen(1_000).unwrap();
        assert_eq!(queue(&listener).unwrap().limit, 50);
    });
}

#[test]
fn connections_that_find_the_queue_full_are_counted() {
    let listener = Options::new()
        .backlog(1)
        .listen::<Std>("127.0.0.1:0")
        .unwrap();
    let addr = addr_of(&listener);
    let _waiting = [(); 2].map(|()| TcpStream::connect(addr).unwrap());
    eventually("both wait", || queue(&listener).unwrap().waiting == 2);
    assert_eq!(queue(&listener).unwrap().drops, 0);
    for n in 1..=5 {
        let _refused = knock(addr);
        // More where this takes so long that the client tries again.
        eventually("the refusal is counted", || {
            queue(&listener).unwrap().drops >= n
        });
    }
    let now = queue(&listener).unwrap();
    assert_eq!((now.waiting, now.limit), (2, 1));
    assert_eq!(only(addr, Protocol::Tcp).drops, Some(now.drops));
}

#[test]
fn datagrams_are_counted_until_they_are_read() {
    datagrams_are_counted();
}

fn datagrams_are_counted() {
    let socket = Std::listen_packet("127.0.0.1:0").unwrap();
    let addr = addr_of(&socket);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let empty = packet_queue(&socket).unwrap();
    assert_eq!((empty.waiting, empty.drops), (0, 0));
    assert_eq!(
        empty.limit as usize,
        SockRef::from(&socket).recv_buffer_size().unwrap()
    );
    let bytes = || packet_queue(&socket).unwrap().waiting;
    let mut each = 0;
    for n in 1..=5 {
        client.send_to(&[0; 100], addr).unwrap();
        if n == 1 {
            eventually("the first datagram is counted", || bytes() > 0);
            each = bytes();
            assert!(each > 100, "the kernel's own part is counted too");
        }
        // Datagrams of one size take the same memory.
        eventually("every datagram is counted", || bytes() == n * each);
        let seen = only(addr, Protocol::Udp);
        assert_eq!((seen.waiting, seen.drops), (Some(n * each), Some(0)));
        assert_eq!((seen.limit, seen.peer), (Some(empty.limit), None));
    }
    for _ in 0..5 {
        socket.recv(&mut [0; 200]).unwrap();
    }
    assert_eq!(packet_queue(&socket).unwrap(), empty);
    // A connected socket has a queue too.
    socket.connect(addr_of(&client)).unwrap();
    assert_eq!(packet_queue(&socket).unwrap(), empty);
    let seen = only(addr, Protocol::Udp);
    assert_eq!(seen.peer, Some(addr_of(&client)));
}

#[test]
fn every_datagram_is_read_or_dropped_and_counted() {
    const SENT: u32 = 200;
    let socket = Options::new()
        .before_bind(|fd| SockRef::from(&fd).set_recv_buffer_size(8_192))
        .listen_packet::<Std>("127.0.0.1:0")
        .unwrap();
    let addr = addr_of(&socket);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..SENT {
        client.send_to(&[0; 100], addr).unwrap();
    }
    // socket(7): the kernel doubles the value.
    assert_eq!(packet_queue(&socket).unwrap().limit, 16_384);
    socket.set_nonblocking(true).unwrap();
    let read = std::cell::Cell::new(0);
    eventually("each is read or dropped", || {
        while socket.recv(&mut [0; 200]).is_ok() {
            read.set(read.get() + 1);
        }
        read.get() + packet_queue(&socket).unwrap().drops == SENT
    });
    let now = packet_queue(&socket).unwrap();
    assert!(read.get() > 0 && now.drops > 0, "{now:?}");
    assert_eq!(now.waiting, 0);
    assert_eq!(only(addr, Protocol::Udp).drops, Some(now.drops));
}

#[test]
fn what_has_no_such_queue_is_named() {
    #[track_caller]
    fn refused(error: std::io::Error, what: &str, why: &str) {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("cannot see the {what} queue of descriptor ")),
            "{text}"
        );
        assert!(text.ends_with(why), "{text}");
    }
    fn tcp(fd: &impl AsFd, why: &str) {
        refused(queue(fd).unwrap_err(), "accept", why);
    }
    fn udp(fd: &impl AsFd, why: &str) {
        refused(packet_queue(fd).unwrap_err(), "receive", why);
    }
    let listener = Std::listen("127.0.0.1:0").unwrap();
    let socket = Std::listen_packet("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(addr_of(&listener)).unwrap();
    let unbound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let file = File::open("/dev/null").unwrap();
    let (unix, _) = std::os::unix::net::UnixStream::pair().unwrap();

    tcp(
        &socket,
        ": it is a UDP socket, and a TCP listener was meant",
    );
    tcp(&unbound, ": it is a TCP socket that does not listen");
    let peer = addr_of(&listener);
    tcp(
        &stream,
        &format!(": it is a TCP connection with {peer}, and a TCP listener was meant"),
    );
    udp(
        &listener,
        ": it is a TCP socket, and a UDP socket was meant",
    );
    udp(&stream, ": it is a TCP socket, and a UDP socket was meant");
    for error in [queue(&file).unwrap_err(), packet_queue(&file).unwrap_err()] {
        // The system's words, which differ between C libraries, end the sentence.
        assert!(
            error
                .to_string()
                .contains(": it is no socket, but a file or a pipe: "),
            "{error}"
        );
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    tcp(
        &unix,
        ": it is a UNIX socket, which has no port, and a TCP listener was meant",
    );
    udp(
        &unix,
        ": it is a UNIX socket, which has no port, and a UDP socket was meant",
    );

    let error = occupants(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        "cannot see the sockets on port 0: it stands for a free port"
    );
}

/// Every member, and nothing else: neither connections nor what another port has.
fn every_member_is_seen() {
    let group = Options::new().group("127.0.0.1:0", 5).unwrap();
    let addr = group.local_addr();
    let sockets = Options::new().join(true).packet_group(addr, 3).unwrap();
    let six = Std::listen((Ipv6Addr::LOCALHOST, addr.port())).unwrap();
    let client = TcpStream::connect(addr).unwrap();
    let other = Std::listen("127.0.0.1:0").unwrap();
    // A second descriptor is no second socket, nor a second process.
    let _again = six.try_clone().unwrap();

    let mut all: Vec<_> = group
        .iter()
        .map(|member| (Protocol::Tcp, addr, inode(member)))
        .collect();
    all.sort_unstable();
    all.push((Protocol::Tcp, addr_of(&six), inode(&six)));
    let mut packets: Vec<_> = sockets
        .iter()
        .map(|member| (Protocol::Udp, addr, inode(member)))
        .collect();
    packets.sort_unstable();
    all.extend(packets);

    let seen = occupants(addr.port()).unwrap();
    let found: Vec<_> = seen
        .iter()
        .map(|socket| (socket.protocol, socket.addr, socket.inode))
        .collect();
    assert_eq!(found, all);
    let uid = rustix::process::geteuid().as_raw();
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    for socket in seen {
        assert!(socket.ours, "{socket:?}");
        assert_eq!(socket.uid, uid, "{socket:?}");
        // Other tests start processes, which have a copy of every socket until they are a program.
        let mut processes = socket.processes.iter();
        let me = processes
            .find(|process| process.id == process::id())
            .unwrap();
        assert_eq!(me.name, name.trim_end());
    }
    drop((client, other));
    drop((group, sockets, six));
}

#[test]
fn every_member_of_a_group_is_seen() {
    in_namespace("that nothing but a group is seen", every_member_is_seen);
}

/// Accepted and dialed ones, and not those that wait or have ended.
#[test]
fn connections_belong_to_their_process() {
    let [listener, _second] = [(); 2].map(|()| Std::listen("127.0.0.1:0").unwrap());
    let addr = addr_of(&listener);
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let connections = || {
        let processes = only(addr, Protocol::Tcp).processes;
        let me = processes.iter().find(|process| process.id == process::id());
        me.unwrap().connections.clone()
    };
    let clients = [(); 3].map(|()| TcpStream::connect(addr).unwrap());
    assert_eq!(connections(), []);
    let mut held: Vec<_> = clients
        .iter()
        .map(|_| listener.accept().unwrap().0)
        .collect();
    held.push(Options::new().dial_blocking(addr, addr_of(&peer)).unwrap());
    let mut inodes: Vec<_> = held.iter().map(inode).collect();
    inodes.sort_unstable();
    assert_eq!(connections(), inodes);
    // Half closed, it is still there.
    held[0].shutdown(std::net::Shutdown::Write).unwrap();
    drop(held.pop());
    drop(held.pop());
    inodes = held.iter().map(inode).collect();
    inodes.sort_unstable();
    assert_eq!(connections(), inodes);
}

#[test]
fn the_tables_say_the_same() {
    const NAME: &str = "the_tables_say_the_same";
    if !util::is_child(NAME) {
        return util::in_child(NAME);
    }
    let listener = Options::new()
        .backlog(7)
        .listen::<Std>("127.0.0.1:0")
        .unwrap();
    let addr = addr_of(&listener);
    let socket = Std::listen_packet(addr).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let _open = TcpStream::connect(addr).unwrap();
    let _accepted = listener.accept().unwrap();
    let _waiting = [(); 3].map(|()| TcpStream::connect(addr).unwrap());
    client.send_to(b"?", addr).unwrap();
    eventually("all of it arrives", || {
        queue(&listener).unwrap().waiting == 3 && packet_queue(&socket).unwrap().waiting > 0
    });
    let at_both = || [Protocol::Tcp, Protocol::Udp].map(|protocol| only(addr, protocol));
    let mut before = at_both();
    assert!(
        before.iter().all(|socket| socket.limit.is_some()),
        "{before:?}"
    );
    assert!(
        before.iter().all(|socket| socket.drops.is_some()),
        "{before:?}"
    );

    assert_eq!(before[0].processes[0].connections.len(), 1, "{before:?}");

    refuse_sock_diag();
    let after = at_both();
    for socket in &mut before {
        socket.limit = None;
        if socket.protocol == Protocol::Tcp {
            socket.drops = None;
        }
    }
    assert_eq!(before, after);
    in_namespace(
        "that the tables have nothing but a group",
        every_member_is_seen,
    );
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn refuse_sock_diag() {
    util::answer(libc::SYS_socket, &[(0, libc::AF_NETLINK)], libc::EACCES);
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn refuse_sock_diag() {
    util::skip("the tables of sockets (no filter of system calls for this processor)");
}

/// What a server sees of itself and of another process on its port.
#[test]
fn another_process_is_named_and_not_ours() {
    let mine = Std::listen("127.0.0.1:0").unwrap();
    let addr = addr_of(&mine);
    let theirs = Std::listen(addr).unwrap();
    let number = inode(&theirs);
    let keeper = Keeper::new(theirs);
    // Theirs, and mine.
    let find = || {
        let seen = at(addr, Protocol::Tcp);
        let (theirs, mine): (Vec<_>, Vec<_>) =
            seen.into_iter().partition(|socket| socket.inode == number);
        assert_eq!((theirs.len(), mine.len()), (1, 1), "{theirs:?} {mine:?}");
        (theirs[0].clone(), mine[0].clone())
    };
    let is_keepers = |socket: &Occupant| {
        socket
            .processes
            .iter()
            .any(|process| process.id == keeper.id() && process.name == "sh")
    };
    // Other tests start processes, which have a copy of every socket until they are a program.
    eventually("no other process has it", || find().0.processes.len() == 1);
    let (theirs, own) = find();
    assert_eq!(theirs.inode, number);
    assert!(!theirs.ours && is_keepers(&theirs), "{theirs:?}");
    assert_eq!(own.inode, inode(&mine));
    assert!(own.ours && !is_keepers(&own), "{own:?}");

    // A socket that two processes have is both's.
    let shared = Keeper::new(mine.try_clone().unwrap());
    eventually("both have it", || {
        let ids: Vec<_> = find()
            .1
            .processes
            .iter()
            .map(|process| process.id)
            .collect();
        let mut both = vec![process::id(), shared.id()];
        both.sort_unstable();
        ids == both
    });
    assert!(find().1.ours);
    drop(keeper);
    assert_eq!(only(addr, Protocol::Tcp).inode, inode(&mine));
}

#[test]
fn another_users_socket_has_a_uid_and_no_processes() {
    if rustix::process::geteuid().as_raw() == OTHER {
        return util::skip("the sockets of another user (this is that user)");
    }
    let me = rustix::process::geteuid().as_raw();
    let listener = Std::listen("127.0.0.1:0").unwrap();
    let addr = addr_of(&listener);
    let socket = Std::listen_packet(addr).unwrap();
    let keepers = [Keeper::new(listener), Keeper::new(socket)];
    let both = || [Protocol::Tcp, Protocol::Udp].map(|protocol| only(addr, protocol));
    as_user(OTHER, "the sockets of another user", || {
        let mine = Std::listen_packet((Ipv4Addr::new(127, 0, 0, 2), addr.port())).unwrap();
        for socket in both() {
            assert_eq!((socket.uid, socket.ours), (me, false), "{socket:?}");
            assert_eq!(socket.processes, [], "{socket:?}");
            let told = socket.limit.is_some() && socket.drops.is_some();
            assert!(told, "{socket:?}");
        }
        let seen = only(addr_of(&mine), Protocol::Udp);
        assert_eq!((seen.uid, seen.ours), (OTHER, true));
        assert_eq!(seen.inode, inode(&mine));
    });
    // A process that may look at all others sees which they are.
    eventually("no other process has them", || {
        both().iter().all(|socket| socket.processes.len() == 1)
    });
    let ids = both().map(|socket| socket.processes[0].id);
    assert_eq!(ids, [keepers[0].id(), keepers[1].id()]);
}

#[test]
fn a_namespace_has_ports_of_its_own() {
    let outside = Std::listen("127.0.0.1:0").unwrap();
    let addr = addr_of(&outside);
    in_namespace("the ports of a namespace", || {
        assert_eq!(occupants(addr.port()).unwrap(), []);
        let inside = Std::listen(addr).unwrap();
        assert_eq!(only(addr, Protocol::Tcp).inode, inode(&inside));
    });
    assert_eq!(only(addr, Protocol::Tcp).inode, inode(&outside));
}

/// More sockets than one message of the kernel holds.
#[test]
fn a_large_group_is_seen_whole() {
    in_namespace("a group of 500", || {
        let group = Options::new().group("127.0.0.1:0", 500).unwrap();
        let mut inodes: Vec<_> = group.iter().map(inode).collect();
        inodes.sort_unstable();
        let seen = occupants(group.local_addr().port()).unwrap();
        assert!(seen.iter().all(|socket| socket.ours));
        assert!(seen.into_iter().map(|socket| socket.inode).eq(inodes));
    });
}

#[test]
fn what_is_seen_can_be_sent() {
    fn public<T: Send + Sync + Clone + Eq + std::fmt::Debug>() {}
    public::<Occupant>();
    public::<reuseport::Process>();
    public::<Protocol>();
    public::<reuseport::Queue>();
    public::<reuseport::PacketQueue>();
    assert_eq!(
        [Protocol::Tcp, Protocol::Udp].map(|protocol| protocol.to_string()),
        ["TCP", "UDP"]
    );
}
