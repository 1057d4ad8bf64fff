//! A member that joins a group that was opened elsewhere has what the others have.

#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "options that socket2 does not know")]

mod util;

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use reuseport::{Group, Member, Options, Std, queue};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use util::{addr_of, as_user, in_namespace, ours};

const SO_BUF_LOCK: libc::c_int = 72;

fn get(fd: &impl AsFd, (level, name): (libc::c_int, libc::c_int)) -> io::Result<Vec<u8>> {
    let mut bytes = [0u8; 16];
    let mut len = bytes.len() as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `bytes`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            bytes.as_mut_ptr().cast(),
            &mut len,
        )
    };
    match result {
        0 => Ok(bytes[..len as usize].to_vec()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(fd: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &[u8]) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length are those of `value`.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Two sockets of one group, as another program opens them: each after `prepare` has had it.
fn opened(
    addr: &str,
    r#type: Type,
    protocol: Option<Protocol>,
    prepare: impl Fn(&Socket) -> io::Result<()>,
) -> io::Result<Vec<Socket>> {
    let mut addr: SocketAddr = addr.parse().unwrap();
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let socket = Socket::new(Domain::for_address(addr), r#type, protocol)?;
        socket.set_reuse_port(true)?;
        prepare(&socket)?;
        socket.bind(&addr.into())?;
        if r#type == Type::STREAM {
            socket.listen(64)?;
        }
        addr = addr_of(&socket);
        sockets.push(socket);
    }
    Ok(sockets)
}

fn listeners(addr: &str, prepare: impl Fn(&Socket) -> io::Result<()>) -> Group<TcpListener> {
    Group::adopt(opened(addr, Type::STREAM, None, prepare).unwrap()).unwrap()
}

fn sockets(addr: &str, prepare: impl Fn(&Socket) -> io::Result<()>) -> Group<UdpSocket> {
    Group::adopt(opened(addr, Type::DGRAM, None, prepare).unwrap()).unwrap()
}

/// What is joined is one of the kernel's group: of many connections every member gets some.
fn all_get_some(group: Group<TcpListener>, joined: Member<TcpListener>, to: SocketAddr) {
    let members: Vec<_> = group.into_iter().chain([joined]).collect();
    let clients: Vec<_> = (0..90).map(|_| TcpStream::connect(to).unwrap()).collect();
    let waiting = util::until(|| {
        let waiting: Vec<_> = members
            .iter()
            .map(|member| queue(member).unwrap().waiting)
            .collect();
        (waiting.iter().sum::<u32>() == 90).then_some(waiting)
    });
    // A fair kernel leaves one of three without any once in 2^50 runs.
    assert!(waiting.iter().all(|&n| n > 0), "{waiting:?}");
    drop(clients);
}

/// The options that a systemd unit or a hook may have set, one after the other.
#[test]
fn every_option_is_like_the_others() {
    let int = |value: libc::c_int| value.to_ne_bytes().to_vec();
    let pair = |a: i64, b: i64| [a.to_ne_bytes(), b.to_ne_bytes()].concat();
    let (tcp, udp) = (&[Type::STREAM][..], &[Type::DGRAM][..]);
    let both = &[Type::STREAM, Type::DGRAM][..];
    let (v4, v6) = (&["127.0.0.1:0"][..], &["[::1]:0"][..]);
    let any = &["127.0.0.1:0", "[::1]:0"][..];
    let (socket, ip, ipv6) = (libc::SOL_SOCKET, libc::IPPROTO_IP, libc::IPPROTO_IPV6);
    let (t, u) = (libc::IPPROTO_TCP, libc::IPPROTO_UDP);
    #[rustfmt::skip]
    let table = [
        ("SO_BINDTOIFINDEX", socket, libc::SO_BINDTOIFINDEX, int(1), both, any),
        ("SO_MARK", socket, libc::SO_MARK, int(7), both, any),
        ("SO_PRIORITY", socket, libc::SO_PRIORITY, int(5), both, any),
        ("SO_KEEPALIVE", socket, libc::SO_KEEPALIVE, int(1), tcp, any),
        ("SO_LINGER", socket, libc::SO_LINGER, [int(1), int(3)].concat(), tcp, any),
        ("SO_BROADCAST", socket, libc::SO_BROADCAST, int(1), udp, v4),
        ("SO_DONTROUTE", socket, libc::SO_DONTROUTE, int(1), both, v4),
        ("SO_OOBINLINE", socket, libc::SO_OOBINLINE, int(1), tcp, any),
        ("SO_RXQ_OVFL", socket, libc::SO_RXQ_OVFL, int(1), udp, any),
        ("SO_TIMESTAMP", socket, libc::SO_TIMESTAMP, int(1), udp, any),
        ("SO_TIMESTAMPNS", socket, libc::SO_TIMESTAMPNS, int(1), udp, any),
        ("SO_BUSY_POLL", socket, libc::SO_BUSY_POLL, int(50), both, any),
        ("SO_MAX_PACING_RATE", socket, libc::SO_MAX_PACING_RATE, int(1_000_000), tcp, any),
        ("SO_RCVTIMEO", socket, libc::SO_RCVTIMEO, pair(5, 500_000), both, any),
        ("SO_SNDTIMEO", socket, libc::SO_SNDTIMEO, pair(5, 500_000), both, any),
        ("SO_RCVLOWAT", socket, libc::SO_RCVLOWAT, int(100), tcp, any),
        ("SO_RCVBUF", socket, libc::SO_RCVBUF, int(50_000), both, any),
        ("SO_SNDBUF", socket, libc::SO_SNDBUF, int(50_000), both, any),
        ("IP_FREEBIND", ip, libc::IP_FREEBIND, int(1), both, v4),
        ("IP_TRANSPARENT", ip, libc::IP_TRANSPARENT, int(1), both, v4),
        ("IP_TOS", ip, libc::IP_TOS, int(0x10), both, v4),
        ("IP_TTL", ip, libc::IP_TTL, int(9), both, v4),
        ("IP_MINTTL", ip, libc::IP_MINTTL, int(9), tcp, v4),
        ("IP_MTU_DISCOVER", ip, libc::IP_MTU_DISCOVER, int(libc::IP_PMTUDISC_PROBE), both, v4),
        ("IP_RECVERR", ip, libc::IP_RECVERR, int(1), udp, v4),
        ("IP_PKTINFO", ip, libc::IP_PKTINFO, int(1), udp, v4),
        ("IP_RECVTOS", ip, libc::IP_RECVTOS, int(1), udp, v4),
        ("IP_RECVTTL", ip, libc::IP_RECVTTL, int(1), udp, v4),
        ("IP_RECVORIGDSTADDR", ip, 20, int(1), udp, v4),
        ("IP_MULTICAST_TTL", ip, libc::IP_MULTICAST_TTL, int(9), udp, v4),
        ("IP_MULTICAST_LOOP", ip, libc::IP_MULTICAST_LOOP, int(0), udp, v4),
        ("IP_MULTICAST_IF", ip, libc::IP_MULTICAST_IF, vec![127, 0, 0, 1], udp, v4),
        ("IP_MULTICAST_ALL", ip, 49, int(0), udp, v4),
        ("IPV6_FREEBIND", ipv6, 78, int(1), both, v6),
        ("IPV6_TRANSPARENT", ipv6, 75, int(1), both, v6),
        ("IPV6_TCLASS", ipv6, libc::IPV6_TCLASS, int(0x20), both, v6),
        ("IPV6_UNICAST_HOPS", ipv6, libc::IPV6_UNICAST_HOPS, int(9), both, v6),
        ("IPV6_MINHOPCOUNT", ipv6, 73, int(9), tcp, v6),
        ("IPV6_MTU_DISCOVER", ipv6, libc::IPV6_MTU_DISCOVER, int(libc::IP_PMTUDISC_PROBE), both, v6),
        ("IPV6_RECVERR", ipv6, 25, int(1), udp, v6),
        ("IPV6_RECVPKTINFO", ipv6, libc::IPV6_RECVPKTINFO, int(1), udp, v6),
        ("IPV6_RECVTCLASS", ipv6, libc::IPV6_RECVTCLASS, int(1), udp, v6),
        ("IPV6_RECVHOPLIMIT", ipv6, libc::IPV6_RECVHOPLIMIT, int(1), udp, v6),
        ("IPV6_RECVORIGDSTADDR", ipv6, 74, int(1), udp, v6),
        ("IPV6_MULTICAST_HOPS", ipv6, libc::IPV6_MULTICAST_HOPS, int(9), udp, v6),
        ("IPV6_MULTICAST_LOOP", ipv6, libc::IPV6_MULTICAST_LOOP, int(0), udp, v6),
        ("IPV6_MULTICAST_IF", ipv6, libc::IPV6_MULTICAST_IF, int(1), udp, v6),
        ("TCP_NODELAY", t, libc::TCP_NODELAY, int(1), tcp, any),
        ("TCP_KEEPIDLE", t, libc::TCP_KEEPIDLE, int(99), tcp, any),
        ("TCP_KEEPINTVL", t, libc::TCP_KEEPINTVL, int(99), tcp, any),
        ("TCP_KEEPCNT", t, libc::TCP_KEEPCNT, int(3), tcp, any),
        ("TCP_DEFER_ACCEPT", t, libc::TCP_DEFER_ACCEPT, int(5), tcp, any),
        ("TCP_FASTOPEN", t, libc::TCP_FASTOPEN, int(9), tcp, any),
        ("TCP_FASTOPEN_NO_COOKIE", t, 34, int(1), tcp, any),
        ("TCP_SAVE_SYN", t, 27, int(1), tcp, any),
        ("TCP_SYNCNT", t, libc::TCP_SYNCNT, int(3), tcp, any),
        ("TCP_LINGER2", t, libc::TCP_LINGER2, int(9), tcp, any),
        ("TCP_USER_TIMEOUT", t, libc::TCP_USER_TIMEOUT, int(9_000), tcp, any),
        ("TCP_MAXSEG", t, libc::TCP_MAXSEG, int(800), tcp, any),
        ("TCP_WINDOW_CLAMP", t, libc::TCP_WINDOW_CLAMP, int(9_000), tcp, any),
        ("TCP_NOTSENT_LOWAT", t, 25, int(9_000), tcp, any),
        ("TCP_CONGESTION", t, libc::TCP_CONGESTION, b"reno".to_vec(), tcp, any),
        ("UDP_SEGMENT", u, 103, int(1_200), udp, any),
        ("UDP_GRO", u, 104, int(1), udp, any),
    ];
    for (word, level, name, value, kinds, addrs) in table {
        for (&kind, &addr) in kinds
            .iter()
            .flat_map(|kind| addrs.iter().map(move |addr| (kind, addr)))
        {
            let prepare = |socket: &Socket| set(socket, level, name, &value);
            let opened = match opened(addr, kind, None, prepare) {
                Ok(opened) => opened,
                Err(error) => {
                    util::skip(&format!(
                        "that a member has the {word} of the others ({error})"
                    ));
                    continue;
                }
            };
            let theirs = get(&opened[0], (level, name)).unwrap();
            let plain =
                Socket::new(Domain::for_address(addr.parse().unwrap()), kind, None).unwrap();
            assert_ne!(theirs, get(&plain, (level, name)).unwrap(), "{word}");
            let joined = match kind {
                Type::STREAM => {
                    let group = Group::<TcpListener>::adopt(opened).unwrap();
                    get(&group.roster().join().unwrap(), (level, name))
                }
                _ => {
                    let group = Group::<UdpSocket>::adopt(opened).unwrap();
                    get(&group.roster().join().unwrap(), (level, name))
                }
            };
            assert_eq!(joined.unwrap(), theirs, "{word} of {addr}");
        }
    }
}

#[test]
fn members_of_two_groups_are_not_adopted_as_one() {
    let refusal = |sockets: Vec<Socket>| {
        let error = Group::<TcpListener>::adopt(sockets).unwrap_err();
        let text = error.to_string();
        text.split_once(": ").unwrap().1.to_owned()
    };
    in_namespace("groups of which one is a device's", || {
        let another = |addr: SocketAddr, device: Option<&[u8]>| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind_device(device).unwrap();
            socket.bind(&addr.into()).unwrap();
            socket.listen(8).unwrap();
            socket
        };
        let plain = another("127.0.0.1:0".parse().unwrap(), None);
        let addr = plain.local_addr().unwrap().as_socket().unwrap();
        let another = |device| another(addr, device);
        assert_eq!(
            refusal(vec![plain, another(Some(b"lo"))]),
            "it is for another device than those before it"
        );
        let here = another(None);
        let there = in_namespace("groups of two namespaces", || another(None)).unwrap();
        assert_eq!(
            refusal(vec![here, there]),
            "it is in another network namespace than those before it"
        );
    });
}

/// Sockets with a device and without one are two groups of the kernel, of which one gets everything.
#[test]
fn a_device_is_kept() {
    let group = listeners("127.0.0.1:0", |socket| socket.bind_device(Some(b"lo")));
    let addr = group.local_addr();
    let joined = group.roster().join().unwrap();
    assert_eq!(SockRef::from(&joined).device().unwrap().unwrap(), b"lo");
    all_get_some(group, joined, addr);
}

#[test]
fn the_backlog_is_kept() {
    for backlog in [0, 1, 64, 4_096] {
        let group = listeners("127.0.0.1:0", |_| Ok(()));
        for member in &group {
            SockRef::from(member).listen(backlog).unwrap();
        }
        // It is read when the group is adopted.
        let group = Group::<TcpListener>::adopt(group).unwrap();
        let theirs = queue(group.iter().next().unwrap()).unwrap().limit;
        let joined = group.roster().join().unwrap();
        assert_eq!(queue(&joined).unwrap().limit, theirs);
    }
}

/// An address that no interface has.
#[test]
fn what_is_bound_freely_can_be_joined() {
    in_namespace("addresses that no interface has", || {
        let free = |socket: &Socket| socket.set_freebind_v4(true);
        let group = listeners("10.1.2.3:0", free);
        assert_eq!(addr_of(&group.roster().join().unwrap()), group.local_addr());
        let group = sockets("10.1.2.3:0", free);
        assert_eq!(addr_of(&group.roster().join().unwrap()), group.local_addr());
        let group = listeners("[2001:db8::1]:0", |socket| socket.set_freebind_v6(true));
        assert_eq!(addr_of(&group.roster().join().unwrap()), group.local_addr());
    });
}

#[test]
fn the_protocol_is_kept() {
    let mptcp = Protocol::from(libc::IPPROTO_MPTCP);
    let opened = match opened("127.0.0.1:0", Type::STREAM, Some(mptcp), |socket| {
        set(socket, libc::SOL_SOCKET, libc::SO_MARK, &7i32.to_ne_bytes())
    }) {
        Ok(opened) => opened,
        Err(error) => return util::skip(&format!("a group of MPTCP ({error})")),
    };
    let group = Group::<TcpListener>::adopt(opened).unwrap();
    let addr = group.local_addr();
    let joined = group.roster().join().unwrap();
    assert_eq!(SockRef::from(&joined).protocol().unwrap(), Some(mptcp));
    assert_eq!(SockRef::from(&joined).mark().unwrap(), 7);
    assert_eq!(queue(&joined).unwrap().limit, 64);
    all_get_some(group, joined, addr);
}

/// Each is a group of its own to the kernel: `[::]` with IPv4 and without, and IPv4 in an IPv6
/// socket.
#[test]
fn the_family_is_kept() {
    in_namespace("families of groups that are adopted", || {
        for bindv6only in ["0", "1"] {
            std::fs::write("/proc/sys/net/ipv6/bindv6only", bindv6only).unwrap();
            for (addr, only_v6, to) in [
                ("[::]:0", false, [127, 0, 0, 1].into()),
                ("[::]:0", true, std::net::Ipv6Addr::LOCALHOST.into()),
                ("[::ffff:127.0.0.1]:0", false, [127, 0, 0, 1].into()),
            ] {
                let group = listeners(addr, |socket| socket.set_only_v6(only_v6));
                let to = SocketAddr::new(to, group.local_addr().port());
                let joined = group.roster().join().unwrap();
                assert_eq!(addr_of(&joined), group.local_addr());
                assert_eq!(SockRef::from(&joined).domain().unwrap(), Domain::IPV6);
                assert_eq!(SockRef::from(&joined).only_v6().unwrap(), only_v6);
                all_get_some(group, joined, to);
            }
        }
    });
}

/// A size that takes a privilege: past the machine's limit, as systemd sets it.
fn too_large() -> libc::c_int {
    let most = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
    most.trim().parse::<libc::c_int>().unwrap() + 4_096
}

/// A size that was chosen is never changed by the kernel again, which would slow connections down.
#[test]
fn a_buffer_is_left_alone_that_was_not_chosen() {
    in_namespace("buffers of which the machine changes the size", || {
        let group = listeners("127.0.0.1:0", |_| Ok(()));
        std::fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 262144 6291456").unwrap();
        let joined = group.roster().join().unwrap();
        assert_eq!(SockRef::from(&joined).recv_buffer_size().unwrap(), 262_144);
        if let Ok(locks) = get(&joined, (libc::SOL_SOCKET, SO_BUF_LOCK)) {
            assert_eq!(locks, 0i32.to_ne_bytes());
        }
    });
}

#[test]
fn a_buffer_is_kept_that_was_chosen() {
    let lock = |fd: &dyn Fn() -> io::Result<Vec<u8>>| fd().ok();
    for chosen in [None, Some(30_000), Some(too_large())] {
        let prepare = |socket: &Socket| match chosen {
            Some(size) => {
                let size: libc::c_int = size;
                set(
                    socket,
                    libc::SOL_SOCKET,
                    libc::SO_RCVBUFFORCE,
                    &size.to_ne_bytes(),
                )
            }
            None => Ok(()),
        };
        let opened = match opened("127.0.0.1:0", Type::DGRAM, None, prepare) {
            Ok(opened) => opened,
            Err(error) => return util::skip(&format!("buffers past the limit ({error})")),
        };
        let group = Group::<UdpSocket>::adopt(opened).unwrap();
        let member = group.iter().next().unwrap();
        let theirs = SockRef::from(member).recv_buffer_size().unwrap();
        let joined = group.roster().join().unwrap();
        assert_eq!(SockRef::from(&joined).recv_buffer_size().unwrap(), theirs);
        let locks = [
            lock(&|| get(member, (libc::SOL_SOCKET, SO_BUF_LOCK))),
            lock(&|| get(&joined, (libc::SOL_SOCKET, SO_BUF_LOCK))),
        ];
        assert_eq!(locks[0], locks[1]);
    }
}

/// What the others do not let through a member that joins does not either.
#[test]
fn a_socket_filter_is_kept() {
    /// BPF_RET | BPF_K: lets nothing through, or up to so many bytes.
    fn ret(k: u32) -> libc::sock_filter {
        libc::sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k,
        }
    }
    let prepare = |socket: &Socket| {
        let mut program = [ret(0), ret(u32::MAX)];
        let fprog = libc::sock_fprog {
            len: 2,
            filter: program.as_mut_ptr(),
        };
        // SAFETY: `fprog` is plain data of that size.
        let bytes = unsafe {
            std::slice::from_raw_parts((&raw const fprog).cast::<u8>(), size_of_val(&fprog))
        };
        set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, bytes)
    };
    let group = sockets("127.0.0.1:0", prepare);
    let joined = group.roster().join().unwrap();
    let mut program = [ret(1); 3];
    let mut len = 3;
    // SAFETY: the pointer is to as many instructions as the length says.
    let result = unsafe {
        libc::getsockopt(
            joined.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            program.as_mut_ptr().cast(),
            &mut len,
        )
    };
    assert_eq!((result, len), (0, 2));
    let read = program.map(|instruction| (instruction.code, instruction.k));
    assert_eq!(read[..2], [(0x06, 0), (0x06, u32::MAX)]);
}

/// What the new process does not know of the old one's options it reads from the sockets.
#[test]
fn what_is_received_is_joined_alike() {
    let options = Options::new()
        .device("lo")
        .backlog(64)
        .before_bind(|fd| SockRef::from(&fd).set_keepalive(true));
    let old = options.group("127.0.0.1:0", 2).unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    let roster = old.roster();
    let handing = std::thread::spawn(move || roster.hand_over(&here));
    let new = Group::<TcpListener>::receive(&there).unwrap();
    handing.join().unwrap().unwrap();
    drop(old);
    let addr = new.local_addr();
    let joined = new.roster().join().unwrap();
    let socket = SockRef::from(&joined);
    assert_eq!(socket.device().unwrap().unwrap(), b"lo");
    assert!(socket.keepalive().unwrap());
    assert_eq!(queue(&joined).unwrap().limit, 64);
    all_get_some(new, joined, addr);
}

#[test]
fn what_takes_a_privilege_is_refused_by_name() {
    let int = |value: libc::c_int| value.to_ne_bytes().to_vec();
    let buffer = format!("SO_RCVBUF {}", too_large());
    let options = [
        (libc::SOL_SOCKET, libc::SO_MARK, int(7), "SO_MARK 7"),
        (libc::SOL_SOCKET, libc::SO_PRIORITY, int(7), "SO_PRIORITY 7"),
        (
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            int(too_large()),
            &buffer,
        ),
        (
            libc::IPPROTO_IP,
            libc::IP_TRANSPARENT,
            int(1),
            "IP_TRANSPARENT 1",
        ),
    ];
    for (level, name, value, word) in options {
        let opened = match opened("127.0.0.1:0", Type::DGRAM, None, |socket| {
            set(socket, level, name, &value)
        }) {
            Ok(opened) => opened,
            Err(error) => {
                util::skip(&format!("that {word} takes a privilege ({error})"));
                continue;
            }
        };
        let group = Group::<UdpSocket>::adopt(opened).unwrap();
        let addr = group.local_addr();
        as_user(65_534, "options that take a privilege", || {
            let error = group.roster().join().unwrap_err();
            assert_eq!(
                ours(&error),
                format!(
                    "cannot open member 3 of 3 on {addr}: it cannot have {word} as the other members have"
                )
            );
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        });
    }
}

/// A socket is of the namespace of the thread that opens it: from another one nothing is joined.
#[test]
fn a_thread_of_another_network_joins_nothing() {
    let opened = in_namespace("a group of another network namespace", || {
        let group = Options::new().group("127.0.0.1:7007", 2).unwrap();
        let fds = Options::new().packet_group("127.0.0.1:7007", 2).unwrap();
        let adopted = Group::<UdpSocket>::adopt(fds).unwrap();
        // There it works.
        let joined = (
            group.roster().join().unwrap(),
            adopted.roster().join().unwrap(),
        );
        (group, adopted, joined)
    });
    let Some((group, adopted, _joined)) = opened else {
        return;
    };
    let errors = [
        group.roster().join().map(drop).unwrap_err(),
        adopted.roster().join().map(drop).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(
            error.to_string(),
            "cannot open member 4 of 4 on 127.0.0.1:7007: this thread is in another network namespace than its group"
        );
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

/// One that has been taken out of its group tells nothing of it.
#[test]
fn what_has_left_its_group_is_not_adopted() {
    let group = Options::new().packet_group("127.0.0.1:0", 2).unwrap();
    let roster = group.roster();
    let mut members = group
        .into_iter()
        .map(|member| member.attach::<Std>().unwrap());
    let (first, _second) = (members.next().unwrap(), members.next().unwrap());
    roster.close(0).unwrap();
    assert_eq!(roster.places(), [Some(1)]);
    let error = Group::<UdpSocket>::adopt([first]).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("cannot tell how descriptor "), "{text}");
    assert!(
        text.ends_with(" was opened: it has been taken out of its group"),
        "{text}"
    );
}
