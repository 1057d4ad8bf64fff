//! Descriptors from elsewhere: what is taken, and the sentence for each thing that is not.

#![cfg(target_os = "linux")]

#[macro_use]
mod util;

use std::fs::File;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use reuseport::{Error, Group, Member, Options, ReusePort, Std};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use util::{Runtime, addr_of};

on_every_runtime!(listeners_are_adopted datagram_sockets_are_adopted);

/// In the runtime's mode, closed by exec, and working, whether they share or not, TCP or MPTCP.
fn listeners_are_adopted<R: Runtime>() {
    R::block_on(async {
        let mptcp = || {
            Socket::new(
                Domain::IPV4,
                Type::STREAM,
                Some(Protocol::from(libc::IPPROTO_MPTCP)),
            )
        };
        let plain = || TcpListener::bind("127.0.0.1:0").unwrap();
        let mut fds: Vec<OwnedFd> =
            vec![plain().into(), Std::listen("localhost:0").unwrap().into()];
        match mptcp() {
            Ok(socket) => {
                socket
                    .bind(
                        &"127.0.0.1:0"
                            .parse::<std::net::SocketAddr>()
                            .unwrap()
                            .into(),
                    )
                    .unwrap();
                socket.listen(1).unwrap();
                fds.push(socket.into());
            }
            Err(error) => util::skip(&format!("adopting MPTCP ({error})")),
        }
        for fd in fds {
            // As systemd hands them over: inherited, and in either mode.
            rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
            SockRef::from(&fd).set_nonblocking(!R::NONBLOCKING).unwrap();
            let addr = addr_of(&fd);
            let listener = R::adopt(fd).unwrap();
            assert_eq!(
                SockRef::from(&listener).nonblocking().unwrap(),
                R::NONBLOCKING
            );
            assert!(
                rustix::io::fcntl_getfd(&listener)
                    .unwrap()
                    .contains(rustix::io::FdFlags::CLOEXEC)
            );
            let client = TcpStream::connect(addr).unwrap();
            let (_, peer) = R::accept(&listener).await.unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
        }
    });
}

fn datagram_sockets_are_adopted<R: Runtime>() {
    R::block_on(async {
        let plain = UdpSocket::bind("127.0.0.1:0").unwrap();
        plain.set_nonblocking(!R::NONBLOCKING).unwrap();
        let addr = plain.local_addr().unwrap();
        let socket = R::adopt_packet(plain).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _sending = util::keep_sending(&client, b"?", addr);
        let (len, from) = R::recv_from(&socket, &mut [0; 8]).await.unwrap();
        assert_eq!((len, from), (1, client.local_addr().unwrap()));
    });
}

/// The crate's sentence without the number of the descriptor.
fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.unwrap_err();
    let text = util::ours(&error);
    assert!(text.starts_with("cannot adopt descriptor "), "{text}");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
    text.split_once(": ").unwrap().1.to_owned()
}

#[test]
fn what_is_no_listener_is_named() {
    let file = || File::open("/dev/null").unwrap();
    let no_socket = "it is no socket, but a file or a pipe";
    assert_eq!(refusal(Std::adopt(file())), no_socket);
    assert_eq!(refusal(Member::<UdpSocket>::adopt(file())), no_socket);

    let unix = UnixStream::pair().unwrap().0;
    assert_eq!(
        refusal(Std::adopt(unix)),
        "it is a UNIX socket, which has no port, and a TCP listener was meant"
    );
    let path = std::env::temp_dir().join(format!("reuseport-adopt-{}", std::process::id()));
    let unix = UnixListener::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        refusal(Std::adopt(unix)),
        "it is a UNIX socket, which has no port, and a TCP listener was meant"
    );

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(
        refusal(Std::adopt(udp)),
        "it is a UDP socket, and a TCP listener was meant"
    );

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let stream = TcpStream::connect(addr).unwrap();
    assert_eq!(
        refusal(Std::adopt(stream)),
        format!("it is a TCP connection with {addr}, and a TCP listener was meant")
    );

    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    bound
        .bind(
            &"127.0.0.1:0"
                .parse::<std::net::SocketAddr>()
                .unwrap()
                .into(),
        )
        .unwrap();
    assert_eq!(
        refusal(Std::adopt(bound)),
        "it is a TCP socket that does not listen"
    );

    if let Ok(icmp) = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)) {
        assert_eq!(
            refusal(Std::adopt(icmp)),
            "it is neither TCP nor UDP, and a TCP listener was meant"
        );
    }
    let netlink = Socket::new(Domain::from(libc::AF_NETLINK), Type::DGRAM, None).unwrap();
    assert_eq!(
        refusal(Std::adopt(netlink)),
        "it is no socket of an IP network, and a TCP listener was meant"
    );
}

#[test]
fn what_is_no_datagram_socket_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(
        refusal(Std::adopt_packet(listener)),
        "it is a TCP socket, and a UDP socket was meant"
    );
    let unix = UnixDatagram::unbound().unwrap();
    assert_eq!(
        refusal(Std::adopt_packet(unix)),
        "it is a UNIX socket, which has no port, and a UDP socket was meant"
    );
    let unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    assert_eq!(
        refusal(Std::adopt_packet(unbound)),
        "it is bound to no port"
    );
    let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
    connected.connect("127.0.0.1:9").unwrap();
    assert_eq!(
        refusal(Std::adopt_packet(connected)),
        "it is connected, and receives from 127.0.0.1:9 only"
    );
}

#[test]
fn a_group_is_adopted_in_order() {
    let opened = Options::new().group("localhost:0", 3).unwrap();
    let addr = opened.local_addr();
    let fds: Vec<OwnedFd> = opened.into_iter().map(Into::into).collect();
    let numbers: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    SockRef::from(&fds[1]).set_nonblocking(true).unwrap();
    let group = Group::<TcpListener>::adopt(fds).unwrap();
    assert_eq!((group.local_addr(), group.len()), (addr, 3));
    for (index, member) in group.iter().enumerate() {
        assert_eq!(
            (member.number(), member.as_fd().as_raw_fd()),
            (index, numbers[index])
        );
        assert!(!SockRef::from(member).nonblocking().unwrap());
    }
    let sockets = Options::new().packet_group("localhost:0", 2).unwrap();
    let group = Group::<UdpSocket>::adopt(sockets).unwrap();
    assert_eq!(group.len(), 2);
}

#[test]
fn what_makes_no_group_is_named() {
    let not_sharing = "it does not share its port: SO_REUSEPORT is not set on it";
    let plain = || TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(refusal(Member::<TcpListener>::adopt(plain())), not_sharing);
    assert_eq!(refusal(Group::<TcpListener>::adopt([plain()])), not_sharing);
    let shared = || Std::listen("127.0.0.1:0").unwrap();
    let fds: [OwnedFd; 2] = [
        shared().into(),
        UdpSocket::bind("127.0.0.1:0").unwrap().into(),
    ];
    assert_eq!(
        refusal(Group::<TcpListener>::adopt(fds)),
        "it is a UDP socket, and a TCP listener was meant"
    );

    let (one, two) = (shared(), shared());
    let places = (addr_of(&one), addr_of(&two));
    assert_eq!(
        refusal(Group::<TcpListener>::adopt([one, two])),
        format!(
            "it is bound to {}, and the group is on {}",
            places.1, places.0
        )
    );

    let one = shared();
    let same = one.try_clone().unwrap();
    let text = refusal(Group::<TcpListener>::adopt([one, same]));
    assert_eq!(text, "it is the same socket as one before it");

    let none = Group::<TcpListener>::adopt(Vec::<OwnedFd>::new()).unwrap_err();
    assert_eq!(
        none.to_string(),
        "cannot adopt a group: there is no descriptor"
    );

    let socket = Std::listen_packet("127.0.0.1:0").unwrap();
    socket.connect("127.0.0.1:9").unwrap();
    assert_eq!(
        refusal(Member::<UdpSocket>::adopt(socket)),
        "it is connected, and receives from 127.0.0.1:9 only"
    );
}
