//! Every failure is a sentence: bad input of every kind, and who holds an address.

#![cfg(target_os = "linux")]

mod util;

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use reuseport::{Error, Family, Holder, Options, ReusePort, Std, ToAddr, Tokio};
use socket2::{Domain, Socket, Type};
use util::{addr_of, as_user, in_namespace};

/// The same words for TCP, UDP, groups and dialing.
fn refusal(options: &Options, addr: impl ToAddr + Clone) -> String {
    let error = options.listen::<Std>(addr.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let others = [
        options.listen_packet::<Std>(addr.clone()).unwrap_err(),
        options.group(addr.clone(), 2).unwrap_err(),
        options.packet_group(addr, 2).unwrap_err(),
    ];
    for other in others {
        assert_eq!(other.to_string(), error.to_string());
    }
    error.to_string()
}

#[test]
fn bad_input_is_named() {
    let bad = |addr: &str| {
        let text = refusal(&Options::new(), addr);
        let (what, why) = text.split_once(" as an address: ").unwrap();
        assert_eq!(what, format!("cannot use {addr:?}"));
        why.to_owned()
    };
    assert_eq!(
        bad(""),
        "it is empty; \":80\" is every address, and \":0\" a free port"
    );
    let colons = "it has too many colons; IPv6 addresses stand in brackets, as in \"[::1]:80\"";
    assert_eq!(bad("a:b:c"), colons);
    assert_eq!(bad("::1:80"), colons);
    assert_eq!(bad("::"), colons);
    assert_eq!(bad("127.0.0.1:65536"), "port 65536 is larger than 65535");
    assert_eq!(
        bad("[::1]:99999999999999999999"),
        "port 99999999999999999999 is larger than 65535"
    );
    for port in ["-1", "+80", " 80", "http", "0x50", "8０"] {
        assert_eq!(
            bad(&format!("127.0.0.1:{port}")),
            format!("{port:?} is no port number")
        );
    }
    let no_port = "it has no port, as in \"127.0.0.1:80\"";
    for addr in [
        "127.0.0.1",
        "127.0.0.1:",
        "localhost",
        ":",
        "[::1]",
        "[::1]:",
        "[::1]80",
    ] {
        assert_eq!(bad(addr), no_port, "{addr}");
    }
    let brackets = "its brackets do not match, as in \"[::1]:80\"";
    for addr in ["[::1:80", "::1]:80", "[", "]:80"] {
        let why = bad(addr);
        assert!(why == brackets || why == colons, "{addr}: {why}");
    }
    assert_eq!(bad("[127.0.0.1]:80"), "\"127.0.0.1\" is no IPv6 address");
    assert_eq!(bad("[]:80"), "\"\" is no IPv6 address");
    for name in [
        "example.com",
        "*",
        "256.0.0.1",
        "127.1",
        "a b",
        "ü",
        "127.0.0.1 ",
    ] {
        assert_eq!(
            bad(&format!("{name}:80")),
            format!(
                "{name:?} is a name, and only addresses are taken; Net::lookup finds the addresses of a name"
            )
        );
    }
    assert_eq!(
        bad("[fe80::1%nowhere0]:80"),
        "there is no network interface \"nowhere0\": No such device (os error 19)"
    );
    for zone in ["", "0", "a\0b", "4294967296"] {
        assert!(bad(&format!("[fe80::1%{zone}]:80")).starts_with("there is no network interface "));
    }
    assert_eq!(
        bad("127.0.0.1%lo:80"),
        "an IPv4 address has no zone, and this one has \"lo\""
    );
}

#[test]
fn families_that_do_not_fit_are_named() {
    let only = |family| Options::new().family(family);
    assert_eq!(
        refusal(&only(Family::V4), "[::1]:80"),
        "cannot use [::1]:80: it is an IPv6 address, and Family::V4 was asked for"
    );
    for addr in ["127.0.0.1:80", "[::ffff:127.0.0.1]:80"] {
        assert_eq!(
            refusal(&only(Family::V6), addr),
            "cannot use 127.0.0.1:80: it is an IPv4 address, and Family::V6 was asked for"
        );
    }
}

#[test]
fn devices_that_are_not_there_are_named() {
    for device in ["nowhere0", "lo-and-fifteen-more-characters"] {
        let error = Options::new()
            .device(device)
            .listen::<Std>("127.0.0.1:80")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot share 127.0.0.1:80: it cannot be restricted to device {device:?}: No such device (os error 19)"
            )
        );
    }
    for device in ["", "l\0o"] {
        let error = Options::new()
            .device(device)
            .listen_packet::<Std>("127.0.0.1:80")
            .unwrap_err();
        assert!(
            error.to_string().ends_with(": that is no name of a device"),
            "{error}"
        );
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn the_machines_refusals_are_explained() {
    // TEST-NET-1, which no machine has.
    let error = Std::listen("192.0.2.1:80").unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot share 192.0.2.1:80: no interface of this machine has this address: \
         Cannot assign requested address (os error 99)"
    );
    as_user(65_534, "a port that needs a privilege", || {
        let error = Std::listen("127.0.0.1:81").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot share 127.0.0.1:81: this port needs a privilege that the process lacks: \
             Permission denied (os error 13)"
        );
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    });
}

/// TCP and UDP by the same names.
fn listen(udp: bool, addr: SocketAddr) -> Result<(), Error> {
    if udp {
        Std::listen_packet(addr).map(drop)
    } else {
        Std::listen(addr).map(drop)
    }
}

#[test]
fn a_holder_that_does_not_share_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (udp, addr) in [(false, addr_of(&listener)), (true, addr_of(&socket))] {
        let error = listen(udp, addr).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot share {addr}: its holder did not set SO_REUSEPORT before bind: \
                 Address already in use (os error 98)"
            )
        );
        assert_eq!(
            (error.kind(), error.holder()),
            (ErrorKind::AddrInUse, Some(Holder::NotSharing))
        );
        assert_eq!(error.addr(), Some(addr));
        assert_eq!(error.io_error().raw_os_error(), Some(libc::EADDRINUSE));
        // At every address of the machine it is in the way too, and in the other family.
        for every in [
            SocketAddr::from(([0, 0, 0, 0], addr.port())),
            SocketAddr::from(([0; 16], addr.port())),
        ] {
            let error = listen(udp, every).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "cannot share {every}: the holder of {addr} did not set SO_REUSEPORT before bind: \
                     Address already in use (os error 98)"
                )
            );
        }
    }
    // Of the other family, on every address, it takes IPv4 too.
    let dual = TcpListener::bind("[::]:0").unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], addr_of(&dual).port()));
    let text = listen(false, addr).unwrap_err().to_string();
    assert!(
        text.contains(&format!(
            ": the holder of {} did not set SO_REUSEPORT",
            addr_of(&dual)
        )),
        "{text}"
    );
}

/// In a namespace of their own, where no other test has left anything on a port.
#[test]
fn what_does_not_listen_is_explained() {
    in_namespace("who holds a port on which nobody listens", || {
        let _closing = util::no_forks();
        let text = |addr: SocketAddr| {
            let error = listen(false, addr).unwrap_err();
            assert_eq!(error.holder(), Some(Holder::NotSharing));
            let text = error.to_string();
            text.split(": ").nth(1).unwrap().to_owned()
        };
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        assert_eq!(
            text(addr_of(&bound)),
            "nobody listens on it, but a socket that is bound holds it and does not share"
        );

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = addr_of(&listener);
        let outgoing = TcpStream::connect(peer).unwrap();
        let local = addr_of(&outgoing);
        assert_eq!(
            text(local),
            format!(
                "nobody listens on it, but a connection with {peer}, or a socket that is bound, \
                 holds it and does not share"
            )
        );
        // Who ends the connection keeps its port for a while.
        drop(outgoing);
        drop(listener.accept().unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        let words = format!(
            "nobody listens on it, but a connection with {peer} that ended a moment ago, or a \
             socket that is bound, holds it and does not share"
        );
        while text(local) != words {
            assert!(Instant::now() < deadline, "{}", text(local));
        }
    });
}

#[test]
fn ports_that_have_run_out_are_explained() {
    in_namespace("ports that have run out", || {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40000").unwrap();
        let held = (
            Std::listen("127.0.0.1:0").unwrap(),
            Std::listen_packet("127.0.0.1:0").unwrap(),
        );
        let sentence = |what: &str| {
            format!(
                "{what} 127.0.0.1:0: no port is free for it: Address already in use (os error 98)"
            )
        };
        for options in [Options::new(), Options::new().join(true)] {
            let error = options.listen::<Std>("127.0.0.1:0").unwrap_err();
            assert_eq!(error.to_string(), sentence("cannot share"));
            let error = options.listen_packet::<Std>("127.0.0.1:0").unwrap_err();
            assert_eq!(error.to_string(), sentence("cannot share"));
            // Not even a group that may join others lands in one by chance.
            let error = options.group("127.0.0.1:0", 2).unwrap_err();
            assert_eq!(error.to_string(), sentence("cannot open a new group on"));
            let error = options.packet_group("127.0.0.1:0", 2).unwrap_err();
            assert_eq!(error.to_string(), sentence("cannot open a new group on"));
        }
        drop(held);
    });
}

#[test]
fn another_user_is_named() {
    for uid in [1234, 0] {
        in_namespace("a port of another user", || {
            let open = || {
                (
                    Std::listen("127.0.0.1:0").unwrap(),
                    Std::listen_packet("127.0.0.1:0").unwrap(),
                )
            };
            let (Some((listener, socket)), me) = (match uid {
                0 => (Some(open()), 1234),
                _ => (as_user(uid, "a port of another user", open), 0),
            }) else {
                return;
            };
            let ask = || {
                for (udp, addr) in [(false, addr_of(&listener)), (true, addr_of(&socket))] {
                    let error = listen(udp, addr).unwrap_err();
                    assert_eq!(
                        error.to_string(),
                        format!(
                            "cannot share {addr}: user {uid} holds it, and ports are shared within one user: \
                             Address already in use (os error 98)"
                        )
                    );
                    assert_eq!(error.holder(), Some(Holder::User(uid)));
                }
                // Nor by the option with which UDP ports are taken over.
                let thief = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
                thief.set_reuse_address(true).unwrap();
                thief.set_reuse_port(true).unwrap();
                let refused = thief.bind(&addr_of(&socket).into()).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::AddrInUse);
            };
            match me {
                0 => ask(),
                _ => as_user(me, "a port of another user", ask).unwrap_or(()),
            }
        });
    }
}

#[test]
fn out_of_descriptors_is_explained() {
    const NAME: &str = "out_of_descriptors_is_explained";
    if !util::is_child(NAME) {
        return util::in_child(NAME);
    }
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(64),
            maximum,
        },
    )
    .unwrap();
    // The probe of the kernel is done while there are descriptors.
    let few = Options::new().group("127.0.0.1:0", 2).unwrap();
    assert_eq!(few.len(), 2);
    let before = util::descriptors();
    for n in [100, 5_000] {
        let error = Options::new().group("127.0.0.1:0", n).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("cannot open member "), "{text}");
        assert!(
            text.ends_with("this process has no descriptor left (RLIMIT_NOFILE): Too many open files (os error 24)"),
            "{text}"
        );
        assert_eq!(util::descriptors(), before);
    }
}

#[test]
fn an_error_is_an_io_error_of_the_same_kind_and_text() {
    fn open() -> io::Result<()> {
        Std::listen("")?;
        Ok(())
    }
    let error = Std::listen("").unwrap_err();
    assert!(error.source().is_none());
    assert_eq!(error.addr(), None);
    assert_eq!(error.holder(), None);
    let text = error.to_string();
    assert_eq!(format!("{error:?}"), text);
    let io = open().unwrap_err();
    assert_eq!((io.kind(), io.to_string()), (ErrorKind::InvalidInput, text));
    assert!(io.get_ref().unwrap().is::<Error>());
}

#[test]
fn no_runtime_is_an_error() {
    let words = "the runtime did not take the socket: there is no reactor running, must be called from the context \
                 of a Tokio 1.x runtime";
    let errors = [
        Tokio::listen("localhost:0").map(drop),
        Tokio::listen_packet("localhost:0").map(drop),
        Tokio::adopt(TcpListener::bind("127.0.0.1:0").unwrap()).map(drop),
        Options::new()
            .group("localhost:0", 1)
            .unwrap()
            .into_iter()
            .next()
            .unwrap()
            .attach::<Tokio>()
            .map(drop),
    ];
    for error in errors {
        assert_eq!(error.unwrap_err().to_string(), words);
    }
}

/// Nothing can ask a tokio runtime beforehand whether it has input and output.
#[test]
fn a_tokio_runtime_without_io_panics() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let panic = runtime
        .block_on(async { std::panic::catch_unwind(|| Tokio::listen("localhost:0").map(drop)) });
    assert!(panic.is_err());
}
