//! Groups: all or none, new by default, in the kernel's order, and never too many.

#![cfg(target_os = "linux")]

#[macro_use]
mod util;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use reuseport::{Family, Group, Holder, Member, Options, ReusePort, Socket, Std};
use util::{Runtime, addr_of, has_option, in_namespace, is_child, ours};

/// Every kind of address on which a group can be.
const PLACES: [(Family, &str); 6] = [
    (Family::Any, "127.0.0.1:"),
    (Family::V4, ":"),
    (Family::Any, "[::1]:"),
    (Family::V6, ":"),
    (Family::Any, ":"),
    (Family::Any, "[::]:"),
];

/// A kind of socket, so that one body serves TCP and UDP.
trait Kind: Socket {
    fn group(options: &Options, addr: &str, n: usize) -> Result<Group<Self>, reuseport::Error>;
    fn single(options: &Options, addr: &str) -> Result<Self, reuseport::Error>;
    fn plain(addr: SocketAddr) -> std::io::Result<Self>;
}

impl Kind for TcpListener {
    fn group(options: &Options, addr: &str, n: usize) -> Result<Group<Self>, reuseport::Error> {
        options.group(addr, n)
    }
    fn single(options: &Options, addr: &str) -> Result<Self, reuseport::Error> {
        options.listen::<Std>(addr)
    }
    fn plain(addr: SocketAddr) -> std::io::Result<Self> {
        Self::bind(addr)
    }
}

impl Kind for UdpSocket {
    fn group(options: &Options, addr: &str, n: usize) -> Result<Group<Self>, reuseport::Error> {
        options.packet_group(addr, n)
    }
    fn single(options: &Options, addr: &str) -> Result<Self, reuseport::Error> {
        options.listen_packet::<Std>(addr)
    }
    fn plain(addr: SocketAddr) -> std::io::Result<Self> {
        Self::bind(addr)
    }
}

/// In every place: new where nobody is, refused where anybody is, joined where that was asked for.
fn founds_only_what_is_new<S: Kind>() {
    let _closing = util::no_forks();
    for (family, prefix) in PLACES {
        let options = Options::new().family(family);
        let group = S::group(&options, &format!("{prefix}0"), 4).unwrap();
        let addr = format!("{prefix}{}", group.local_addr().port());
        assert_eq!((group.len(), group.is_empty()), (4, false));
        for (index, member) in group.iter().enumerate() {
            assert_eq!(member.number(), index);
            assert_eq!(addr_of(member), group.local_addr());
            assert!(has_option(member, libc::SOL_SOCKET, libc::SO_REUSEPORT));
        }

        let error = S::group(&options, &addr, 2).unwrap_err();
        assert_eq!(
            (error.kind(), error.holder()),
            (ErrorKind::AddrInUse, Some(Holder::Group)),
            "{error}"
        );
        let words =
            ": this process shares it already (Options::join joins it unless it is steered, and ";
        assert!(ours(&error).contains(words), "{error}");

        let more = S::group(&options.clone().join(true), &addr, 2).unwrap();
        let one = S::single(&options, &addr).unwrap();
        drop((group, more, one));
        // Everybody has left: it is new again.
        assert_eq!(S::group(&options, &addr, 1).unwrap().len(), 1);
    }
}

#[test]
fn tcp_founds_only_what_is_new() {
    founds_only_what_is_new::<TcpListener>();
}

#[test]
fn udp_founds_only_what_is_new() {
    founds_only_what_is_new::<UdpSocket>();
}

/// A single shared socket, a plain one, and a wildcard beside an address all make a group not new.
fn anybody_is_in_the_way<S: Kind>() {
    let options = Options::new();
    for (family, prefix) in PLACES {
        let options = options.clone().family(family);
        let holder = S::single(&options, &format!("{prefix}0")).unwrap();
        let error =
            S::group(&options, &format!("{prefix}{}", addr_of(&holder).port()), 2).unwrap_err();
        assert_eq!(error.holder(), Some(Holder::Group), "{error}");

        let plain = S::plain(
            format!("{}0", if prefix == ":" { "0.0.0.0:" } else { prefix })
                .parse()
                .unwrap(),
        )
        .unwrap();
        let addr = addr_of(&plain);
        if family != Family::V6 {
            let error = S::group(&options, &format!("{prefix}{}", addr.port()), 2).unwrap_err();
            assert_eq!(error.holder(), Some(Holder::NotSharing), "{error}");
        }
    }

    let specific = S::single(&options, "127.0.0.1:0").unwrap();
    let error = S::group(
        &options,
        &format!("0.0.0.0:{}", addr_of(&specific).port()),
        2,
    )
    .unwrap_err();
    assert_eq!(error.holder(), Some(Holder::Group), "{error}");
    let wildcard = S::single(&options, "0.0.0.0:0").unwrap();
    let addr = format!("127.0.0.1:{}", addr_of(&wildcard).port());
    let error = S::group(&options, &addr, 2).unwrap_err();
    assert_eq!(
        ours(&error),
        format!(
            "cannot open a new group on {addr}: this process shares {} already (Options::join opens beside it)",
            addr_of(&wildcard)
        )
    );
    let dual = S::single(&options, ":0").unwrap();
    let error = S::group(&options, &format!("0.0.0.0:{}", addr_of(&dual).port()), 2).unwrap_err();
    assert!(error.to_string().contains("shares [::]:"), "{error}");
}

#[test]
fn tcp_anybody_is_in_the_way() {
    anybody_is_in_the_way::<TcpListener>();
}

#[test]
fn udp_anybody_is_in_the_way() {
    anybody_is_in_the_way::<UdpSocket>();
}

/// Four groups that are opened at the same moment: one is new, and three are refused.
///
/// In a namespace, where nobody else takes the port, and where the tables of sockets are short.
fn one_of_many_founders_wins<S: Kind>() {
    in_namespace("groups that are opened at the same moment", || {
        let _closing = util::no_forks();
        for _ in 0..50 {
            let plain = S::plain("127.0.0.1:0".parse().unwrap()).unwrap();
            let addr = addr_of(&plain).to_string();
            drop(plain);
            let start = std::sync::Barrier::new(4);
            let results: Vec<_> = std::thread::scope(|scope| {
                let found = || {
                    start.wait();
                    S::group(&Options::new(), &addr, 2)
                };
                let founders = [(); 4].map(|()| scope.spawn(found));
                founders.map(|founder| founder.join().unwrap()).into()
            });
            let won = results.iter().filter(|result| result.is_ok()).count();
            assert_eq!(won, 1, "groups that are new on {addr}");
            for error in results.iter().filter_map(|result| result.as_ref().err()) {
                assert_eq!(error.kind(), ErrorKind::AddrInUse);
            }
        }
    });
}

#[test]
fn tcp_one_of_many_founders_wins() {
    one_of_many_founders_wins::<TcpListener>();
}

#[test]
fn udp_one_of_many_founders_wins() {
    one_of_many_founders_wins::<UdpSocket>();
}

/// Attaches `ret index` to a group, as steering is going to.
#[allow(unsafe_code, reason = "nothing safe attaches a program")]
fn steer_to(member: &impl AsFd, index: u32) {
    let mut code = [libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: index,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: code.as_mut_ptr(),
    };
    // SAFETY: the program and its length are valid for the call.
    let result = unsafe {
        libc::setsockopt(
            member.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// What opened the group leaves room for a program, and member i is the kernel's index i.
#[test]
fn a_member_is_the_kernels_index() {
    for (family, prefix) in PLACES {
        let options = Options::new().family(family);
        let listeners: Vec<_> = options
            .group(format!("{prefix}0"), 4)
            .unwrap()
            .into_iter()
            .collect();
        let sockets: Vec<_> = options
            .packet_group(format!("{prefix}0"), 4)
            .unwrap()
            .into_iter()
            .collect();
        let v6 = prefix.contains("::1") || family == Family::V6;
        let ip = if v6 { "::1" } else { "127.0.0.1" }.parse().unwrap();
        let [tcp, udp] = [addr_of(&listeners[0]), addr_of(&sockets[0])]
            .map(|addr| SocketAddr::new(ip, addr.port()));
        for index in [2, 0, 3, 1] {
            // Any member will do: the program is the group's.
            steer_to(&listeners[0], index);
            steer_to(&sockets[1], index);
            let client = TcpStream::connect(tcp).unwrap();
            stop_blocking(&listeners);
            let accepted = util::until(|| listeners.iter().position(accept));
            assert_eq!(accepted, index as usize, "{prefix}");
            drop(client);

            let client = UdpSocket::bind((ip, 0)).unwrap();
            let send = || assert_eq!(client.send_to(b"?", udp).unwrap(), 1);
            stop_blocking(&sockets);
            let waits = |member: &Member<_>| socket2::SockRef::from(member).peek_sender().is_ok();
            let (got, _) = util::until_sent(send, || sockets.iter().position(waits));
            assert_eq!(got, index as usize, "{prefix}");
            let mut buf = [std::mem::MaybeUninit::uninit(); 8];
            for member in &sockets {
                while socket2::SockRef::from(member).recv(&mut buf).is_ok() {}
            }
        }
    }
}

fn stop_blocking(members: &[impl AsFd]) {
    members.iter().for_each(|member| {
        socket2::SockRef::from(member)
            .set_nonblocking(true)
            .unwrap()
    });
}

fn accept(member: &impl AsFd) -> bool {
    socket2::SockRef::from(member).accept().is_ok()
}

/// Also a group of one, and also after it was joined.
#[test]
fn a_group_of_one_can_be_steered_and_joined() {
    let listener = Options::new().group("127.0.0.1:0", 1).unwrap();
    steer_to(listener.iter().next().unwrap(), 0);
    Std::listen(listener.local_addr()).unwrap();
    let socket = Options::new().packet_group("127.0.0.1:0", 1).unwrap();
    steer_to(socket.iter().next().unwrap(), 0);
    Std::listen_packet(socket.local_addr()).unwrap();
}

on_every_runtime!(members_attach);

/// Members work on threads of their own, in runtimes of their own.
fn members_attach<R: Runtime>() {
    let group = Options::new().group("localhost:0", 2).unwrap();
    let addr = group.local_addr();
    // One connection for each member, whatever the hash says.
    let members: Vec<_> = group.into_iter().collect();
    let clients: Vec<_> = (0..2)
        .map(|index| {
            steer_to(&members[0], index);
            TcpStream::connect(addr).unwrap()
        })
        .collect();
    let workers: Vec<_> = members
        .into_iter()
        .map(|member| {
            std::thread::spawn(move || {
                R::block_on(async {
                    let index = member.number();
                    let listener = member.attach::<R>().unwrap();
                    let (stream, _) = R::accept(&listener).await.unwrap();
                    R::write_all(&stream, &[b'0' + index as u8]).await.unwrap();
                })
            })
        })
        .collect();
    for (index, client) in clients.into_iter().enumerate() {
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut { client }, &mut answer).unwrap();
        assert_eq!(answer, index.to_string());
    }
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());

    for member in Options::new().packet_group("localhost:0", 2).unwrap() {
        R::block_on(async { member.attach::<R>().map(drop).unwrap() });
    }
}

#[test]
fn a_group_has_members() {
    let error = Options::new().group("127.0.0.1:80", 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot open a group of 0 on 127.0.0.1:80: a group has at least one member"
    );
    let error = Options::new()
        .packet_group("127.0.0.1:80", 32_769)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot open a group of 32769 on 127.0.0.1:80: this system takes 32768 members at the most"
    );
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// The 32,769th member, which needs as many descriptors: other processes hold a part of them.
#[test]
fn a_full_group_says_so() {
    const NAME: &str = "a_full_group_says_so";
    const LIMIT: usize = 32_768;
    if is_child(NAME) {
        return hold_members();
    }
    in_namespace("the 32,769th member", || {
        use std::io::{BufRead, BufReader, Write};
        use std::process::{Command, Stdio};
        let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        // Some are in use already.
        let each = limits
            .maximum
            .unwrap_or(u64::MAX)
            .saturating_sub(200)
            .min(LIMIT as u64) as usize;
        for (what, kind) in [("TCP", 0), ("UDP", 1)] {
            let port = addr_of(&TcpListener::bind("127.0.0.1:0").unwrap()).port();
            let mut left = LIMIT;
            let mut holders = Vec::new();
            while left > 0 {
                let n = left.min(each);
                let mut command = Command::new(std::env::current_exe().unwrap());
                command
                    .args(["--exact", NAME, "--nocapture", "--quiet"])
                    .env("REUSEPORT_TEST_CHILD", NAME)
                    .env("MEMBERS", format!("{kind} {port} {n}"))
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped());
                let mut child = util::spawn(&mut command).unwrap();
                let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
                assert!(
                    lines.any(|line| line.unwrap().contains("holding")),
                    "the child holds {n} members"
                );
                holders.push((child, lines));
                left -= n;
            }
            let addr = SocketAddr::from(([127, 0, 0, 1], port));
            let error = match kind {
                0 => Std::listen(addr).map(drop).unwrap_err(),
                _ => Std::listen_packet(addr).map(drop).unwrap_err(),
            };
            let text = error.to_string();
            let sentence = format!(
                "cannot share {addr}: the group is full: this kernel takes 32768 members at the most: "
            );
            assert!(text.starts_with(&sentence), "{what}: {text}");
            assert_eq!(error.holder(), Some(Holder::Group), "{what}");
            for (mut child, lines) in holders {
                child.stdin.take().unwrap().write_all(b"\n").unwrap();
                lines.for_each(drop);
                assert!(child.wait().unwrap().success());
            }
        }
    });
}

/// The child: opens so many members, says so, and waits for a line.
fn hold_members() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
    .unwrap();
    let task = std::env::var("MEMBERS").unwrap();
    let [kind, port, n] = task
        .split(' ')
        .map(|word| word.parse().unwrap())
        .collect::<Vec<usize>>()[..]
    else {
        panic!("{task}")
    };
    let addr = SocketAddr::from(([127, 0, 0, 1], port as u16));
    let options = Options::new().join(true);
    let _held: (Option<Group<TcpListener>>, Option<Group<UdpSocket>>) = match kind {
        0 => (Some(options.group(addr, n).unwrap()), None),
        _ => (None, Some(options.packet_group(addr, n).unwrap())),
    };
    println!("holding {n}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Where a member cannot be opened, those before it are gone.
#[test]
fn the_first_refusal_rolls_everything_back() {
    let _closing = util::no_forks();
    use std::sync::atomic::{AtomicUsize, Ordering};
    let calls = AtomicUsize::new(0);
    let options =
        Options::new().before_bind(move |_| match calls.fetch_add(1, Ordering::Relaxed) {
            2 => Err(std::io::Error::other("the third is refused")),
            _ => Ok(()),
        });
    let addr = addr_of(&TcpListener::bind("127.0.0.1:0").unwrap());
    let error = options.group(addr, 4).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot open member 3 of 4 on {addr}: the before_bind hook failed: the third is refused"
        )
    );
    // Nobody holds the port, not even for those who do not share.
    TcpListener::bind(addr).unwrap();
}

#[test]
fn a_member_is_stds_socket_and_a_descriptor() {
    let mut members = Options::new().group("localhost:0", 2).unwrap().into_iter();
    let listener: TcpListener = members.next().unwrap().into_std();
    let fd: OwnedFd = members.next().unwrap().into();
    let member: Member<TcpListener> = Member::adopt(fd).unwrap();
    assert_eq!(member.number(), 0);
    assert_eq!(addr_of(&member), listener.local_addr().unwrap());
    // Blocking, as std's are.
    assert!(!socket2::SockRef::from(&listener).nonblocking().unwrap());
}

/// Every member is closed by exec.
#[test]
fn a_member_is_no_childs() {
    let group = Options::new().group("localhost:0", 2).unwrap();
    for member in &group {
        assert!(
            rustix::io::fcntl_getfd(member)
                .unwrap()
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
    }
}
