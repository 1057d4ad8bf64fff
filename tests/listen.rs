//! One listener or UDP socket: who shares a port with whom, on every runtime.

#![cfg(target_os = "linux")]

#[macro_use]
mod util;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use reuseport::{Family, Net, Options, ReusePort, Std, ToAddr, queue};
use socket2::SockRef;
use util::{Runtime, addr_of, has_option, in_namespace};

on_every_runtime!(listeners_share datagram_sockets_share modes_and_options);

/// Both listeners get connections, and both answer.
fn listeners_share<R: Runtime>() {
    R::block_on(async {
        let first = R::listen("localhost:0").unwrap();
        let addr = addr_of(&first);
        let second = R::listen(addr).unwrap();
        assert_eq!(addr_of(&second), addr);

        // With 64 connections a fair kernel leaves a listener without any once in 2^63 runs.
        let clients: Vec<_> = (0..64).map(|_| TcpStream::connect(addr).unwrap()).collect();
        let queues = util::until(|| {
            let queues = [&first, &second].map(|listener| queue(listener).unwrap().waiting);
            (queues.iter().sum::<u32>() == 64).then_some(queues)
        });
        for (listener, queue) in [&first, &second].into_iter().zip(queues) {
            assert!(queue > 0, "{}: {queues:?}", R::NAME);
            for _ in 0..queue {
                let (stream, peer) = R::accept(listener).await.unwrap();
                assert!(
                    clients
                        .iter()
                        .any(|client| client.local_addr().unwrap() == peer)
                );
                R::write_all(&stream, b"!").await.unwrap();
            }
        }
    });
}

fn datagram_sockets_share<R: Runtime>() {
    R::block_on(async {
        let first = R::listen_packet("localhost:0").unwrap();
        let addr = addr_of(&first);
        let second = R::listen_packet(addr).unwrap();
        assert_eq!(addr_of(&second), addr);

        let mut served = [0, 0];
        for _ in 0..64 {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let send = || assert_eq!(client.send_to(b"?", addr).unwrap(), 1);
            let ((index, socket), _) = util::until_sent(send, || {
                let mut both = [&first, &second].into_iter().enumerate();
                both.find(|(_, socket)| waiting(*socket) > 0)
            });
            let mut buf = [0; 8];
            let (len, from) = R::recv_from(socket, &mut buf).await.unwrap();
            assert_eq!(&buf[..len], b"?");
            assert_eq!(R::send_to(socket, b"!", from).await.unwrap(), 1);
            assert_eq!(client.recv(&mut buf).unwrap(), 1);
            served[index] += 1;
        }
        assert!(served[0] > 0 && served[1] > 0, "{}: {served:?}", R::NAME);
    });
}

/// The bytes of the next datagram (FIONREAD), which is never empty here.
fn waiting(socket: &impl AsFd) -> libc::c_int {
    let mut bytes = 0;
    #[allow(unsafe_code, reason = "nothing safe asks for FIONREAD")]
    // SAFETY: FIONREAD writes one int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    bytes
}

/// Close-on-exec, the runtime's blocking mode, and exactly the sharing options that are safe.
fn modes_and_options<R: Runtime>() {
    fn check<R: Runtime>(socket: &impl AsFd) {
        let flags = rustix::io::fcntl_getfd(socket).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        // async runtimes register the socket, and only then may accept never block.
        assert_eq!(SockRef::from(socket).nonblocking().unwrap(), R::NONBLOCKING);
        assert!(has_option(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT));
    }
    R::block_on(async {
        let listener = R::listen("localhost:0").unwrap();
        check::<R>(&listener);
        assert!(has_option(&listener, libc::SOL_SOCKET, libc::SO_REUSEADDR));
        let socket = R::listen_packet("localhost:0").unwrap();
        check::<R>(&socket);
        assert!(!has_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR));
    });
}

/// What Go's package accepts, in its words: the network and the address.
const GO: [(Family, &str, &str); 6] = [
    (Family::V4, "localhost:", "127.0.0.1"),
    (Family::Any, "127.0.0.1:", "127.0.0.1"),
    (Family::V6, "[::1]:", "::1"),
    (Family::V6, ":", "::"),
    (Family::V4, ":", "0.0.0.0"),
    (Family::Any, ":", "::"),
];

#[test]
fn all_that_go_accepts_is_held_at_once() {
    let port = addr_of(&Std::listen("localhost:0").unwrap()).port();
    let mut listeners = Vec::new();
    let mut sockets = Vec::new();
    for (family, prefix, ip) in GO {
        let options = Options::new().family(family);
        let expected = SocketAddr::new(ip.parse().unwrap(), port);
        let listener = options.listen::<Std>(format!("{prefix}{port}")).unwrap();
        assert_eq!(addr_of(&listener), expected);
        listeners.push(listener);
        let socket = options
            .listen_packet::<Std>(format!("{prefix}{port}"))
            .unwrap();
        assert_eq!(addr_of(&socket), expected);
        sockets.push(socket);
    }
    assert_eq!(listeners.len() + sockets.len(), 12);
}

#[test]
fn every_form_of_an_address_is_taken() {
    fn bound(addr: impl ToAddr) -> SocketAddr {
        addr_of(&Std::listen(addr).unwrap())
    }
    let v4 = |addr: SocketAddr| assert_eq!(addr.ip(), Ipv4Addr::LOCALHOST);
    let v6 = |addr: SocketAddr| assert_eq!(addr.ip(), Ipv6Addr::LOCALHOST);
    v4(bound((Ipv4Addr::LOCALHOST, 0)));
    v4(bound((std::net::IpAddr::from([127, 0, 0, 1]), 0)));
    v4(bound(([127, 0, 0, 1], 0)));
    v4(bound(SocketAddr::from(([127, 0, 0, 1], 0))));
    v4(bound(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)));
    v4(bound("127.0.0.1:0"));
    v4(bound(String::from("LocalHost:0")));
    v4(bound("[::ffff:127.0.0.1]:0"));
    v6(bound((Ipv6Addr::LOCALHOST, 0)));
    v6(bound(std::net::SocketAddrV6::new(
        Ipv6Addr::LOCALHOST,
        0,
        0,
        0,
    )));
    v6(bound("[::1]:0"));
}

/// One socket takes both families, whatever the machine's default says.
#[test]
fn a_port_alone_is_dual_stack() {
    in_namespace("that net.ipv6.bindv6only decides nothing", || {
        for bindv6only in ["0", "1"] {
            std::fs::write("/proc/sys/net/ipv6/bindv6only", bindv6only).unwrap();
            let listener = Std::listen(":0").unwrap();
            let port = addr_of(&listener).port();
            assert!(!has_option(
                &listener,
                libc::IPPROTO_IPV6,
                libc::IPV6_V6ONLY
            ));
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();

            let only = Options::new()
                .family(Family::V6)
                .listen::<Std>(":0")
                .unwrap();
            assert!(has_option(&only, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY));
            let port = addr_of(&only).port();
            let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

            // One group, whatever the family by which one address was asked for.
            let any = Std::listen("[::1]:0").unwrap();
            let same = Options::new()
                .family(Family::V6)
                .listen::<Std>(addr_of(&any))
                .unwrap();
            for socket in [&any, &same] {
                assert!(has_option(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY));
            }
        }
    });
}

/// With half of the ports taken by groups of this user, bind(0) of UDP lands in one of them every
/// second time.
#[test]
fn port_0_is_a_port_of_its_own() {
    in_namespace("that port 0 is a port of its own", || {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40063").unwrap();
        let held: Vec<_> = (40_000..40_064)
            .step_by(2)
            .flat_map(|port| [(Family::V4, port), (Family::V6, port)])
            .map(|(family, port)| {
                Options::new()
                    .family(family)
                    .listen_packet::<Std>(format!("localhost:{port}"))
                    .unwrap()
            })
            .collect();
        assert_eq!(held.len(), 64);
        for addr in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            for _ in 0..100 {
                let mine = Std::listen_packet(addr).unwrap();
                assert_eq!(
                    addr_of(&mine).port() % 2,
                    1,
                    "{addr} shares {}",
                    addr_of(&mine)
                );
                // And it can be joined.
                Std::listen_packet(addr_of(&mine)).unwrap();
            }
        }
    });
}

#[test]
fn a_restart_after_a_plain_listener_works() {
    in_namespace("a restart after a plain listener", || {
        let _closing = util::no_forks();
        let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = plain.local_addr().unwrap();
        let client = TcpStream::connect(addr).unwrap();
        // The server ends the connection, and so its side waits in TIME_WAIT; another stays open.
        drop(plain.accept().unwrap());
        let open = TcpStream::connect(addr).unwrap();
        let (_served, _) = plain.accept().unwrap();
        drop(plain);
        drop(client);
        let listener = Std::listen(addr).unwrap();
        TcpStream::connect(addr).unwrap();
        assert_eq!(
            listener.accept().unwrap().1.ip(),
            open.local_addr().unwrap().ip()
        );
    });
}

#[test]
fn zones_have_names_and_numbers() {
    in_namespace("IPv6 zones", || {
        let mut command = std::process::Command::new("ip");
        command.args(["addr", "add", "fe80::1/64", "dev", "lo", "nodad"]);
        let up = util::spawn(&mut command).and_then(|mut child| child.wait());
        if !up.is_ok_and(|status| status.success()) {
            return util::skip("IPv6 zones (no `ip` command)");
        }
        let named = Std::listen("[fe80::1%lo]:0").unwrap();
        let SocketAddr::V6(addr) = addr_of(&named) else {
            panic!("IPv6")
        };
        assert_eq!(addr.scope_id(), 1);
        Std::listen(format!("[fe80::1%1]:{}", addr.port())).unwrap();
        let error = Std::listen("[fe80::1]:80").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("a link-local address needs a zone"),
            "{error}"
        );
    });
}

#[test]
fn the_default_queue_is_the_kernels_longest() {
    let somaxconn: u32 = std::fs::read_to_string("/proc/sys/net/core/somaxconn")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let longest = Std::listen("localhost:0").unwrap();
    let chosen = Options::new()
        .backlog(7)
        .listen::<Std>("localhost:0")
        .unwrap();
    let huge = Options::new()
        .backlog(u32::MAX)
        .listen::<Std>("localhost:0")
        .unwrap();
    assert_eq!(queue(&longest).unwrap().limit, somaxconn);
    assert_eq!(queue(&huge).unwrap().limit, somaxconn);
    assert_eq!(queue(&chosen).unwrap().limit, 7);
}

#[test]
fn a_device_keeps_others_out() {
    let listener = Options::new()
        .device("lo")
        .listen::<Std>("0.0.0.0:0")
        .unwrap();
    assert_eq!(SockRef::from(&listener).device().unwrap().unwrap(), b"lo");
    let socket = Options::new()
        .device("lo")
        .listen_packet::<Std>(":0")
        .unwrap();
    assert_eq!(SockRef::from(&socket).device().unwrap().unwrap(), b"lo");
}

#[test]
fn before_bind_sees_every_socket_before_its_bind() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&calls);
    let options = Options::new().before_bind(move |fd| {
        seen.fetch_add(1, Ordering::Relaxed);
        assert_eq!(addr_of(&fd).port(), 0);
        SockRef::from(&fd).set_recv_buffer_size(64 << 10)
    });
    let socket = options.listen_packet::<Std>("localhost:0").unwrap();
    // socket(7): the kernel doubles the value.
    assert_eq!(
        SockRef::from(&socket).recv_buffer_size().unwrap(),
        128 << 10
    );
    assert_eq!(options.group("localhost:0", 3).unwrap().len(), 3);
    assert_eq!(calls.load(Ordering::Relaxed), 4);

    let failing = Options::new().before_bind(|_| Err(io::Error::other("not today")));
    let error = failing.listen::<Std>("localhost:0").unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot share 127.0.0.1:0: the before_bind hook failed: not today"
    );
}

type Hook = fn(&SockRef<'_>) -> io::Result<()>;

/// What a hook must not undo is named, and the holder of the port is not blamed for it.
#[test]
fn before_bind_does_not_undo_what_the_crate_needs() {
    let held = Std::listen("127.0.0.1:0").unwrap();
    let addr = addr_of(&held);
    let with = |hook: Hook| Options::new().before_bind(move |fd| hook(&SockRef::from(&fd)));

    let shares = with(|socket| socket.set_reuse_port(false));
    let cleared = "the before_bind hook cleared SO_REUSEPORT";
    let errors = [
        (shares.listen::<Std>(addr).map(drop), "cannot share"),
        (shares.listen_packet::<Std>(addr).map(drop), "cannot share"),
        (
            shares.group(addr, 2).map(drop),
            "cannot open a new group on",
        ),
        (
            shares.clone().join(true).group(addr, 2).map(drop),
            "cannot share",
        ),
        (
            shares.generation(addr, 2).map(drop),
            "cannot open a generation on",
        ),
        (
            shares
                .dial_blocking(addr, SocketAddr::from(([127, 0, 0, 1], 9)))
                .map(drop),
            "cannot dial from",
        ),
    ];
    for (result, what) in errors {
        let error = result.unwrap_err();
        assert_eq!(error.to_string(), format!("{what} {addr}: {cleared}"));
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!((error.holder(), error.addr()), (None, Some(addr)));
    }
    let text = |result: Result<(), reuseport::Error>| {
        result
            .unwrap_err()
            .to_string()
            .split_once(": ")
            .unwrap()
            .1
            .to_owned()
    };
    let family = with(|socket| socket.set_only_v6(!socket.only_v6()?));
    for result in [
        family.listen::<Std>("[::]:0").map(drop),
        family.packet_group("[::]:0", 2).map(drop),
    ] {
        assert_eq!(
            text(result),
            "the before_bind hook changed IPV6_V6ONLY, which Options::family decides"
        );
    }
    let bound = with(|socket| socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()));
    assert_eq!(
        text(bound.listen::<Std>(addr).map(drop)),
        "the before_bind hook bound it already"
    );
}

/// With SO_REUSEADDR a UDP socket is bound beside any other that has it: its port is not its own.
#[test]
fn before_bind_does_not_give_away_a_port_that_is_to_be_new() {
    let thief = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    thief.set_reuse_address(true).unwrap();
    thief
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let addr = addr_of(&thief);
    let options = Options::new().before_bind(|fd| SockRef::from(&fd).set_reuse_address(true));
    for (result, addr) in [
        (options.packet_group(addr, 2).map(drop), addr),
        (options.packet_generation(addr, 2).map(drop), addr),
        (
            options.packet_group("127.0.0.1:0", 2).map(drop),
            SocketAddr::from(([127, 0, 0, 1], 0)),
        ),
        (
            options.listen_packet::<Std>("127.0.0.1:0").map(drop),
            SocketAddr::from(([127, 0, 0, 1], 0)),
        ),
    ] {
        let error = result.unwrap_err();
        assert!(
            error.to_string().ends_with(&format!(
                " {addr}: the before_bind hook set SO_REUSEADDR, with which other sockets may have the port too"
            )),
            "{error}"
        );
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    // Who shares a port with others may, as multicast needs it; TCP has it in any case.
    options.listen_packet::<Std>(addr).unwrap();
    assert_eq!(options.group("127.0.0.1:0", 2).unwrap().len(), 2);
}

#[test]
fn futures_are_send() {
    fn send<T: Send>(_: T) {}
    fn all<R: Net>(listener: &R::TcpListener, stream: &mut R::TcpStream, socket: &R::UdpSocket) {
        let to = SocketAddr::from(([127, 0, 0, 1], 9));
        send(R::accept(listener));
        send(R::read(stream, &mut []));
        send(R::write_all(stream, &[]));
        send(R::recv_from(socket, &mut []));
        send(R::send_to(socket, &[], to));
        send(R::lookup("localhost:1"));
        send(R::dial("127.0.0.1:0", to));
        send(Options::new().dial::<R>(to, to));
    }
    let _ = all::<Std>;
    fn public<T: Send + Sync + std::fmt::Debug>() {}
    public::<Options>();
    public::<reuseport::Error>();
    public::<reuseport::Group<UdpSocket>>();
    public::<reuseport::Member<std::net::TcpListener>>();
    public::<reuseport::Support>();
}
