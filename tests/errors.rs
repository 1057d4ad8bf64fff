//! Every failure is a sentence: bad input of every kind, and who holds an address.

#![cfg(target_os = "linux")]

mod util;

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use reuseport::{Error, Holder, Options, ReusePort, Spread, Std, Steering, Tokio};
use socket2::{Domain, Socket, Type};
use util::{Keeper, addr_of, as_user, in_namespace, ours};

#[test]
fn devices_that_are_not_there_are_named() {
    for device in ["nowhere0", "lo-and-fifteen-more-characters"] {
        let error = Options::new()
            .device(device)
            .listen::<Std>("127.0.0.1:80")
            .unwrap_err();
        assert_eq!(
            ours(&error),
            format!("cannot share 127.0.0.1:80: it cannot be restricted to device {device:?}")
        );
        assert_eq!(error.io_error().raw_os_error(), Some(libc::ENODEV));
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
        ours(&error),
        "cannot share 192.0.2.1:80: no interface of this machine has this address"
    );
    assert_eq!(error.io_error().raw_os_error(), Some(libc::EADDRNOTAVAIL));
    as_user(65_534, "a port that needs a privilege", || {
        let error = Std::listen("127.0.0.1:81").unwrap_err();
        assert_eq!(
            ours(&error),
            "cannot share 127.0.0.1:81: this port needs a privilege that the process lacks"
        );
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    });
    for (addr, why) in [
        (
            "[fe80::1]:80",
            "a link-local address needs a zone, as in [fe80::1%eth0]:80",
        ),
        (
            "[ff02::1]:80",
            "a multicast address of a link needs a zone, as in [ff02::1%eth0]:80",
        ),
        (
            "[fe80::1%2147483646]:80",
            "there is no network interface 2147483646",
        ),
    ] {
        let error = Std::listen_packet(addr).unwrap_err();
        assert_eq!(ours(&error), format!("cannot share {addr}: {why}"));
    }
}

/// What seccomp filters answer instead of the kernel; each filter stays with its thread.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn a_sandbox_is_told_from_a_machine_without_a_protocol() {
    for (call, arguments, addr, why) in [
        (
            libc::SYS_socket,
            &[(0, libc::AF_INET)][..],
            "127.0.0.1:0",
            "a sandbox keeps this process from IPv4 (as RestrictAddressFamilies= of systemd does)",
        ),
        (
            libc::SYS_socket,
            &[(0, libc::AF_INET6)],
            "[::1]:0",
            "a sandbox keeps this process from IPv6 (as RestrictAddressFamilies= of systemd does)",
        ),
        (
            libc::SYS_bind,
            // The length of an IPv4 address.
            &[(2, 16)],
            "127.0.0.1:20000",
            "a security module or a sandbox keeps this process from it (SELinux, AppArmor, Landlock)",
        ),
    ] {
        let errnos = match call {
            libc::SYS_socket => &[libc::EAFNOSUPPORT, libc::EPERM, libc::EACCES][..],
            _ => &[libc::EACCES],
        };
        for &errno in errnos {
            util::on_thread(|| {
                util::answer(call, arguments, errno);
                let error = Std::listen(addr).unwrap_err();
                assert_eq!(ours(&error), format!("cannot share {addr}: {why}"));
                assert_eq!(error.io_error().raw_os_error(), Some(errno));
            });
        }
    }
}

/// An address that is there, and that bind(2) says is not.
#[test]
fn an_ipv6_address_that_cannot_be_bound_yet_is_told_from_none() {
    in_namespace("IPv6 addresses that cannot be bound yet", || {
        let ip = |arguments: &str| {
            let mut command = std::process::Command::new("ip");
            command.args(arguments.split(' '));
            util::spawn(&mut command)
                .and_then(|mut child| child.wait())
                .is_ok_and(|status| status.success())
        };
        // Without its peer the link has no carrier, so that the address is asked about for ever.
        if !(ip("link add one type veth peer name two") && ip("link set one up")) {
            return util::skip("IPv6 addresses that cannot be bound yet (no veth, or no `ip`)");
        }
        for addr in ["2001:db8::1/64", "fe80::1/64"] {
            assert!(ip(&format!("addr add {addr} dev one")));
        }
        for addr in ["[2001:db8::1]:80", "[fe80::1%one]:80"] {
            let error = Std::listen(addr).unwrap_err();
            let text = ours(&error);
            assert!(
                text.ends_with(
                    ": one has it, but is still asking whether another machine has it too: it is \
                     tentative for a second or two"
                ),
                "{text}"
            );
            assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        }
        let text = ours(&Std::listen("[fe80::1%lo]:80").unwrap_err());
        assert!(
            text.ends_with(": one has it, and not the interface that was asked for"),
            "{text}"
        );
        let error = Options::new().device("one").listen::<Std>("[::1]:80");
        assert_eq!(
            ours(&error.unwrap_err()),
            "cannot share [::1]:80: lo has it, and not the interface that was asked for"
        );
        assert_eq!(
            ours(&Std::listen("[2001:db8::2]:80").unwrap_err()),
            "cannot share [2001:db8::2]:80: no interface of this machine has this address"
        );
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

/// Whose the address is, which process has it, and what it is called.
fn holder(error: &Error) -> (Option<Holder>, Option<u32>, Option<&str>) {
    (error.holder(), error.holder_pid(), error.holder_name())
}

#[test]
fn a_holder_that_does_not_share_is_named() {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let me = (
        Some(Holder::NotSharing),
        Some(std::process::id()),
        Some(name.trim_end()),
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (udp, addr) in [(false, addr_of(&listener)), (true, addr_of(&socket))] {
        let error = listen(udp, addr).unwrap_err();
        assert_eq!(
            ours(&error),
            format!(
                "cannot share {addr}: this process holds it and did not set SO_REUSEPORT before bind"
            )
        );
        assert_eq!((error.kind(), holder(&error)), (ErrorKind::AddrInUse, me));
        assert_eq!(error.addr(), Some(addr));
        assert_eq!(error.io_error().raw_os_error(), Some(libc::EADDRINUSE));
        // At every address of the machine it is in the way too, and in the other family.
        for every in [
            SocketAddr::from(([0, 0, 0, 0], addr.port())),
            SocketAddr::from(([0; 16], addr.port())),
        ] {
            let error = listen(udp, every).unwrap_err();
            assert_eq!(
                ours(&error),
                format!(
                    "cannot share {every}: this process holds {addr} and did not set SO_REUSEPORT before bind"
                )
            );
            assert_eq!(holder(&error), me);
        }
    }
    // Of the other family, on every address, it takes IPv4 too.
    let dual = TcpListener::bind("[::]:0").unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], addr_of(&dual).port()));
    let text = ours(&listen(false, addr).unwrap_err());
    let words = format!(": this process holds {} and did not set", addr_of(&dual));
    assert!(text.contains(&words), "{text}");
}

#[test]
fn the_process_that_holds_an_address_is_named() {
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = UdpSocket::bind("127.0.0.1:0").unwrap();
    let shared = Std::listen("127.0.0.1:0").unwrap();
    let addrs = [addr_of(&plain), addr_of(&sockets), addr_of(&shared)];
    let keepers = [
        Keeper::new(plain),
        Keeper::new(sockets),
        Keeper::new(shared),
    ];
    let who = |index: usize| format!("process {} (sh)", keepers[index].id());
    for (index, udp) in [(0, false), (1, true)] {
        let addr = addrs[index];
        // Another test's process may have a copy of the socket until it calls exec.
        let error = until_it_is(&keepers[index], || listen(udp, addr).unwrap_err());
        assert_eq!(
            ours(&error),
            format!(
                "cannot share {addr}: {} holds it and did not set SO_REUSEPORT before bind",
                who(index)
            )
        );
        assert_eq!(
            holder(&error),
            (
                Some(Holder::NotSharing),
                Some(keepers[index].id()),
                Some("sh")
            )
        );
    }
    let addr = addrs[2];
    let error = until_it_is(&keepers[2], || Options::new().group(addr, 2).unwrap_err());
    assert_eq!(
        ours(&error),
        format!(
            "cannot open a new group on {addr}: {} shares it already (Options::join joins it unless it is \
             steered, and Options::generation relieves what Options::generation opened)",
            who(2)
        )
    );
    assert_eq!(
        holder(&error),
        (Some(Holder::Group), Some(keepers[2].id()), Some("sh"))
    );
    // What is advised works.
    assert_eq!(Options::new().join(true).group(addr, 2).unwrap().len(), 2);
}

/// As in a server with many connections, and beside one.
#[test]
fn many_descriptors_hide_no_holder() {
    const NAME: &str = "many_descriptors_hide_no_holder";
    if !util::is_child(NAME) {
        return util::in_child(NAME);
    }
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    if maximum.is_some_and(|maximum| maximum < 19_000) {
        return util::skip(
            "an address that is held where there are many descriptors (RLIMIT_NOFILE)",
        );
    }
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = addr_of(&theirs);
    let keeper = Keeper::new(theirs);
    let file = std::fs::File::open("/dev/null").unwrap();
    let _many: Vec<_> = (0..18_000).map(|_| file.try_clone().unwrap()).collect();
    let error = Std::listen(addr).unwrap_err();
    assert_eq!(error.holder_pid(), Some(keeper.id()), "{error}");
    let error = Std::listen(addr_of(&own)).unwrap_err();
    assert_eq!(error.holder_pid(), Some(std::process::id()), "{error}");
}

fn until_it_is(keeper: &Keeper, ask: impl Fn() -> Error) -> Error {
    util::until(|| Some(ask()).filter(|error| error.holder_pid() == Some(keeper.id())))
}

/// What joins another group, and what does not: each advice is one that can be followed.
#[test]
fn advice_for_a_group_that_is_there_can_be_followed() {
    let listener = Std::listen("127.0.0.1:0").unwrap();
    let socket = Std::listen_packet("127.0.0.1:0").unwrap();
    let (addr, packet_addr) = (addr_of(&listener), addr_of(&socket));
    let every = |addr: SocketAddr| SocketAddr::from(([0, 0, 0, 0], addr.port()));
    let options = Options::new();
    let why = |error: Error| {
        assert_eq!(error.holder(), Some(Holder::Group));
        let text = ours(&error);
        text.split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(
        why(options.packet_group(packet_addr, 1).unwrap_err()),
        "this process shares it already (Options::join joins it unless it is steered, and \
         Options::packet_generation relieves what Options::packet_generation opened)"
    );
    // It is another group then.
    assert_eq!(
        why(options.group(every(addr), 1).unwrap_err()),
        format!("this process shares {addr} already (Options::join opens beside it)")
    );
    assert_eq!(
        options
            .clone()
            .join(true)
            .group(every(addr), 1)
            .unwrap()
            .len(),
        1
    );
    // A generation can do neither, and joins nothing; tests/upgrade.rs follows its advice.
    let adopt = "and no generation is found there; Generation::adopt makes one of its sockets";
    let error = options.generation(addr, 1).map(drop).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot open a generation on {addr}: "))
    );
    assert_eq!(
        why(error),
        format!("this process shares it already, {adopt}")
    );
    assert_eq!(
        why(options
            .packet_generation(packet_addr, 1)
            .map(drop)
            .unwrap_err()),
        format!("this process shares it already, {adopt}")
    );
    // But beside this process's own, on another address, it is opened.
    let (beside, _generation) = options.generation(every(addr), 1).unwrap();
    assert_eq!(beside.local_addr(), every(addr));
    let joining = options
        .join(true)
        .generation(addr, 1)
        .map(drop)
        .unwrap_err();
    assert_eq!(
        joining.to_string(),
        "cannot use Options::join with Options::generation: a generation joins its predecessor only"
    );
}

/// Each option that a call does not have is refused, and nothing is opened.
#[test]
fn options_that_mean_nothing_to_a_call_are_refused() {
    let addr = addr_of(&Std::listen("127.0.0.1:0").unwrap());
    let new = Options::new;
    let groups = "it is for groups (Options::group, Options::packet_group)";
    let (queue, weights) = (
        || new().spread(Spread::Queue),
        || new().steering(Steering::Weights(vec![1])),
    );
    let dial = |options: Options| options.dial_blocking(addr, addr).map(drop);
    let errors = [
        (
            queue().listen::<Std>(addr).map(drop),
            "spread",
            "listen",
            groups,
        ),
        (
            queue().listen_packet::<Std>(addr).map(drop),
            "spread",
            "listen_packet",
            groups,
        ),
        (dial(queue()), "spread", "dial", groups),
        (
            weights().listen::<Std>(addr).map(drop),
            "steering",
            "listen",
            groups,
        ),
        (
            weights().listen_packet::<Std>(addr).map(drop),
            "steering",
            "listen_packet",
            groups,
        ),
        (dial(weights()), "steering", "dial", groups),
        (
            dial(new().join(true)),
            "join",
            "dial",
            "a connection joins no group",
        ),
        (
            dial(new().backlog(1)),
            "backlog",
            "dial",
            "a connection has no backlog",
        ),
        (
            new().backlog(1).listen_packet::<Std>(addr).map(drop),
            "backlog",
            "listen_packet",
            "a UDP socket has no backlog",
        ),
        (
            new().backlog(1).packet_group(addr, 1).map(drop),
            "backlog",
            "packet_group",
            "a UDP socket has no backlog",
        ),
        (
            new().backlog(1).packet_generation(addr, 1).map(drop),
            "backlog",
            "packet_generation",
            "a UDP socket has no backlog",
        ),
        (
            new().join(true).generation(addr, 1).map(drop),
            "join",
            "generation",
            "a generation joins its predecessor only",
        ),
    ];
    for (result, option, call, why) in errors {
        let error = result.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot use Options::{option} with Options::{call}: {why}")
        );
        assert_eq!(
            (error.kind(), error.addr()),
            (ErrorKind::InvalidInput, Some(addr))
        );
    }
    // What a listener does in any case may be said.
    new().join(true).listen::<Std>(addr).unwrap();
    new().join(true).listen_packet::<Std>(addr).unwrap();
}

#[test]
fn addresses_of_many_are_for_udp_without_steering() {
    let steered = Options::new().steering(Steering::Weights(vec![1, 1]));
    let table = [
        ("224.0.0.1:0", "it is a multicast address"),
        ("[ff02::1%1]:0", "it is a multicast address"),
        ("255.255.255.255:0", "it is a broadcast address"),
        (
            "127.255.255.255:0",
            "it is the broadcast address of a network",
        ),
    ];
    for (addr, what) in table {
        let listen = Std::listen(addr).map(drop);
        let group = Options::new().group(addr, 2).map(drop);
        for error in [listen, group].map(Result::unwrap_err) {
            assert_eq!(
                error.to_string(),
                format!("cannot use {addr}: {what}, and TCP is between two sockets")
            );
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        let error = steered.packet_group(addr, 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot steer {addr}: {what}, and every member gets what arrives")
        );
        let group = Options::new().packet_group(addr, 2).unwrap();
        assert_eq!(group.len(), 2);
        let error = group.steer(&Steering::Weights(vec![1, 1])).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot steer the group on {}: {what}, and every member gets what arrives",
                group.local_addr()
            )
        );
    }
    // Neither its last bits nor its first make an address one of many.
    for addr in ["127.0.0.3:0", "127.255.255.127:0", "0.0.0.0:0"] {
        Std::listen(addr).unwrap();
        assert_eq!(steered.packet_group(addr, 2).unwrap().len(), 2);
    }
}

/// Linux 6.8 does.
fn tells_of_bound_sockets() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 8),
        _ => false,
    }
}

/// In a namespace of their own, where no other test has left anything on a port.
#[test]
fn what_does_not_listen_is_explained() {
    in_namespace("what holds a port on which no socket listens", || {
        let _closing = util::no_forks();
        let text = |addr: SocketAddr| {
            let error = listen(false, addr).unwrap_err();
            assert_eq!(error.holder(), Some(Holder::NotSharing));
            let text = ours(&error);
            text.split_once(": ").unwrap().1.to_owned()
        };
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        let words = match tells_of_bound_sockets() {
            true => "this process has bound it, does not listen on it and does not share it",
            false => {
                "no socket listens on it, but a socket that is bound holds it and does not share"
            }
        };
        assert_eq!(text(addr_of(&bound)), words);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = addr_of(&listener);
        let outgoing = TcpStream::connect(peer).unwrap();
        let local = addr_of(&outgoing);
        assert_eq!(
            text(local),
            format!(
                "no socket listens on it, but a connection of this process with {peer}, or a socket \
                 that is bound, holds it and does not share"
            )
        );
        // Who ends the connection keeps its port for a while.
        drop(outgoing);
        drop(listener.accept().unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        let words = format!(
            "no socket listens on it, but a connection with {peer} that ended a moment ago, or a \
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
        let sentence = |what: &str| format!("{what} 127.0.0.1:0: no port is free for it");
        for options in [Options::new(), Options::new().join(true)] {
            let error = options.listen::<Std>("127.0.0.1:0").unwrap_err();
            assert_eq!(ours(&error), sentence("cannot share"));
            let error = options.listen_packet::<Std>("127.0.0.1:0").unwrap_err();
            assert_eq!(ours(&error), sentence("cannot share"));
            // Not even a group that may join others lands in one by chance.
            let error = options.group("127.0.0.1:0", 2).unwrap_err();
            assert_eq!(ours(&error), sentence("cannot open a new group on"));
            let error = options.packet_group("127.0.0.1:0", 2).unwrap_err();
            assert_eq!(ours(&error), sentence("cannot open a new group on"));
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
                        ours(&error),
                        format!(
                            "cannot share {addr}: this process opened it as user {uid}, and ports are shared \
                             within one user"
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

/// Who may look at every process sees which it is, and others see the user only.
#[test]
fn another_users_process_is_named_where_it_may_be_seen() {
    const UID: u32 = 1234;
    if rustix::process::geteuid().as_raw() != 0 {
        return util::skip("a port of another user's process (not root)");
    }
    let mine = Std::listen("127.0.0.1:0").unwrap();
    let addr = addr_of(&mine);
    let keeper = Keeper::new(mine);
    as_user(UID, "a port of another user's process", || {
        let error = until_it_is_not_ours(|| listen(false, addr).unwrap_err());
        assert_eq!(
            ours(&error),
            format!("cannot share {addr}: user 0 holds it, and ports are shared within one user")
        );
        assert_eq!(holder(&error), (Some(Holder::User(0)), None, None));
    });
    let Some(theirs) = as_user(UID, "a port of another user's process", || {
        Std::listen("127.0.0.1:0").unwrap()
    }) else {
        return;
    };
    let addr = addr_of(&theirs);
    let other = Keeper::new(theirs);
    let error = until_it_is(&other, || listen(false, addr).unwrap_err());
    assert_eq!(
        ours(&error),
        format!(
            "cannot share {addr}: process {} (sh) of user {UID} holds it, and ports are shared within one user",
            other.id()
        )
    );
    assert_eq!(error.holder(), Some(Holder::User(UID)));
    drop(keeper);
}

fn until_it_is_not_ours(ask: impl Fn() -> Error) -> Error {
    util::until(|| Some(ask()).filter(|error| error.holder_pid().is_none()))
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
        let text = ours(&error);
        assert!(text.starts_with("cannot open member "), "{text}");
        assert!(
            text.ends_with(": this process has no descriptor left (RLIMIT_NOFILE)"),
            "{text}"
        );
        assert_eq!(error.io_error().raw_os_error(), Some(libc::EMFILE));
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
