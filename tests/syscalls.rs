//! What opening a socket costs in system calls, as strace sees them.

#![cfg(target_os = "linux")]

mod util;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use reuseport::{AsyncStd, Options, ReusePort, Smol, Std, Tokio};
use util::Runtime;

/// In the environment of the traced process: the name of its test.
const TRACED: &str = "REUSEPORT_TRACED";

/// No such file: the attempt to open it marks a line of the trace.
const MARK: &str = "/reuseport/mark";

/// What an allocator calls, in one run and not in the next.
const MEMORY: [&str; 5] = ["brk", "madvise", "mmap", "mprotect", "munmap"];

const TCP: &str = "socket SOCK_STREAM|SOCK_CLOEXEC";
const TCP_NONBLOCK: &str = "socket SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK";
const UDP: &str = "socket SOCK_DGRAM|SOCK_CLOEXEC";
const UDP_NONBLOCK: &str = "socket SOCK_DGRAM|SOCK_CLOEXEC|SOCK_NONBLOCK";
const V6ONLY: &str = "setsockopt IPV6_V6ONLY";
const REUSEADDR: &str = "setsockopt SO_REUSEADDR";
const REUSEPORT: &str = "setsockopt SO_REUSEPORT";
const ATTACH: &str = "setsockopt SO_ATTACH_REUSEPORT_CBPF";
const DETACH: &str = "setsockopt SO_DETACH_REUSEPORT_BPF";
const BIND: &str = "bind";
const LISTEN: &str = "listen";
/// In which network namespace a member that joins later has to be.
/// Who opens the group.
const USER: &str = "geteuid";
/// Which socket a member is, and whose the first.
const LOOK: &str = "fstat";
const REGISTER: &str = "epoll_ctl EPOLL_CTL_ADD";

#[test]
fn std_tcp() {
    let calls = calls("std_tcp", || tcp::<Std>("127.0.0.1:0"));
    expect(calls, &[TCP, REUSEADDR, REUSEPORT, BIND, LISTEN]);
}

#[test]
fn std_udp() {
    let calls = calls("std_udp", || udp::<Std>("127.0.0.1:0"));
    expect(calls, &[UDP, REUSEPORT, BIND]);
}

#[test]
fn tokio_tcp() {
    let calls = calls("tokio_tcp", || tcp::<Tokio>("127.0.0.1:0"));
    expect(
        calls.map(without_check),
        &[TCP_NONBLOCK, REUSEADDR, REUSEPORT, BIND, LISTEN, REGISTER],
    );
}

#[test]
fn tokio_udp() {
    let calls = calls("tokio_udp", || udp::<Tokio>("127.0.0.1:0"));
    expect(
        calls.map(without_check),
        &[UDP_NONBLOCK, REUSEPORT, BIND, REGISTER],
    );
}

#[test]
fn smol_tcp() {
    let calls = calls("smol_tcp", || tcp::<Smol>("127.0.0.1:0"));
    expect(
        calls,
        &[TCP_NONBLOCK, REUSEADDR, REUSEPORT, BIND, LISTEN, REGISTER],
    );
}

#[test]
fn smol_udp() {
    let calls = calls("smol_udp", || udp::<Smol>("127.0.0.1:0"));
    expect(calls, &[UDP_NONBLOCK, REUSEPORT, BIND, REGISTER]);
}

#[test]
fn async_std_tcp() {
    let calls = calls("async_std_tcp", || tcp::<AsyncStd>("127.0.0.1:0"));
    expect(
        calls.map(without_mode),
        &[TCP_NONBLOCK, REUSEADDR, REUSEPORT, BIND, LISTEN, REGISTER],
    );
}

#[test]
fn async_std_udp() {
    let calls = calls("async_std_udp", || udp::<AsyncStd>("127.0.0.1:0"));
    expect(
        calls.map(without_mode),
        &[UDP_NONBLOCK, REUSEPORT, BIND, REGISTER],
    );
}

/// As IPv4; only `[::]` needs IPV6_V6ONLY, so that net.ipv6.bindv6only decides nothing.
#[test]
fn ipv6() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        return util::skip("the system calls for IPv6 (this machine has none)");
    }
    let calls = calls("ipv6", || {
        tcp::<Std>("[::1]:0");
        udp::<Std>("[::1]:0");
        tcp::<Std>(":0");
        udp::<Std>(":0");
    });
    let tcp = [TCP, REUSEADDR, REUSEPORT, BIND, LISTEN];
    let udp = [UDP, REUSEPORT, BIND];
    let tcp_any = [TCP, V6ONLY, REUSEADDR, REUSEPORT, BIND, LISTEN];
    let udp_any = [UDP, V6ONLY, REUSEPORT, BIND];
    expect(calls, &[&tcp[..], &udp, &tcp_any, &udp_any].concat());
}

/// A free TCP port is nobody else's by itself.
#[test]
fn tcp_on_a_free_port() {
    let calls = calls("tcp_on_a_free_port", || {
        between_marks(|| Std::listen("127.0.0.1:0").unwrap());
    });
    expect(calls, &[TCP, REUSEADDR, REUSEPORT, BIND, LISTEN]);
}

/// A free UDP port is nobody else's because of the program.
#[test]
fn udp_on_a_free_port() {
    let calls = calls("udp_on_a_free_port", || {
        let _probed = Std::listen_packet("127.0.0.1:0").unwrap();
        between_marks(|| Std::listen_packet("127.0.0.1:0").unwrap());
    });
    expect(calls, &[UDP, REUSEPORT, ATTACH, BIND, DETACH]);
}

#[test]
fn group_of_listeners() {
    let calls = calls("group_of_listeners", || {
        let probed = Options::new().group("127.0.0.1:0", 1).unwrap();
        let addr = elsewhere(probed.local_addr());
        between_marks(|| Options::new().group(addr, 4).unwrap());
    });
    let first = [TCP, REUSEADDR, REUSEPORT, ATTACH, BIND, LISTEN, DETACH];
    let other = [TCP, REUSEADDR, REUSEPORT, BIND, LISTEN];
    let table = [USER, LOOK, LOOK, LOOK, LOOK, LOOK];
    expect(
        calls.map(without_network),
        &[&first[..], &other, &other, &other, &table].concat(),
    );
}

#[test]
fn group_of_packet_sockets() {
    let calls = calls("group_of_packet_sockets", || {
        let probed = Options::new().packet_group("127.0.0.1:0", 1).unwrap();
        let addr = elsewhere(probed.local_addr());
        between_marks(|| Options::new().packet_group(addr, 4).unwrap());
    });
    let first = [UDP, REUSEPORT, ATTACH, BIND, DETACH];
    let other = [UDP, REUSEPORT, BIND];
    let table = [USER, LOOK, LOOK, LOOK, LOOK, LOOK];
    expect(
        calls.map(without_network),
        &[&first[..], &other, &other, &other, &table].concat(),
    );
}

/// The second listener of a runtime on one port: by then the runtime has all it needs.
fn tcp<R: Runtime>(free: &str) {
    let holder = Std::listen(free).unwrap();
    let addr = holder.local_addr().unwrap();
    R::block_on(async {
        let _first = R::listen(addr).unwrap();
        between_marks(|| R::listen(addr).unwrap());
    });
}

fn udp<R: Runtime>(free: &str) {
    let holder = Std::listen_packet(free).unwrap();
    let addr = holder.local_addr().unwrap();
    R::block_on(async {
        let _first = R::listen_packet(addr).unwrap();
        between_marks(|| R::listen_packet(addr).unwrap());
    });
}

/// The same port of another loopback address, which the kernel gives to nobody while this is held.
fn elsewhere(held: SocketAddr) -> SocketAddr {
    ([127, 0, 0, 2], held.port()).into()
}

/// A debug build of tokio asks whether the socket is nonblocking.
fn without_check(calls: Vec<String>) -> Vec<String> {
    if cfg!(debug_assertions) {
        without_one(calls, |call| call == "fcntl F_GETFL")
    } else {
        calls
    }
}

/// async-std makes each socket nonblocking once more.
fn without_mode(calls: Vec<String>) -> Vec<String> {
    without_one(calls, |call| {
        matches!(call, "ioctl FIONBIO" | "fcntl F_SETFL")
    })
}

/// A group remembers its network namespace: SO_NETNS_COOKIE, which not every strace has a word for.
fn without_network(calls: Vec<String>) -> Vec<String> {
    without_one(calls, |call| call.starts_with("getsockopt"))
}

fn without_one(mut calls: Vec<String>, is: impl Fn(&str) -> bool) -> Vec<String> {
    if let Some(at) = calls.iter().position(|call| is(call)) {
        calls.remove(at);
    }
    calls
}

fn expect(calls: Option<Vec<String>>, expected: &[&str]) {
    if let Some(calls) = calls {
        assert_eq!(calls, expected, "the system calls of one opening");
    }
}

/// Calls `f` with a mark before it and one after it; what it opens is closed later.
fn between_marks<T>(f: impl FnOnce() -> T) {
    let mark = || assert!(fs::File::open(MARK).is_err(), "{MARK} does not exist");
    mark();
    let opened = f();
    mark();
    drop(opened);
}

/// The system calls between the marks of `case`, which runs in this same test of a traced process.
///
/// None in that process, and where nothing can be traced.
fn calls(test: &str, case: impl FnOnce()) -> Option<Vec<String>> {
    if std::env::var_os(TRACED).is_some() {
        case();
        return None;
    }
    if let Err(why) = can_trace() {
        util::skip(&format!("the system calls of {test} ({why})"));
        return None;
    }

    let traces = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("syscalls-{}-{test}", std::process::id()));
    fs::create_dir_all(&traces).unwrap();
    // -ff: a file for each thread, in which no line is ever cut in two.
    let output = Command::new("strace")
        .args(["-ff", "-o"])
        .arg(traces.join("trace"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(TRACED, test)
        .output()
        .unwrap();
    assert!(output.status.success(), "{test}: {}", words(&output));

    let marked: Vec<String> = fs::read_dir(&traces)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .filter(|trace| trace.contains(MARK))
        .collect();
    fs::remove_dir_all(&traces).unwrap();
    let [trace] = &marked[..] else {
        panic!("{} threads have marks: {}", marked.len(), words(&output));
    };
    Some(between(trace))
}

fn can_trace() -> Result<(), String> {
    match Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .output()
    {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(words(&output)),
        Err(error) => Err(format!("no strace: {error}")),
    }
}

/// What a process said last, on one line.
fn words(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&text).trim().replace('\n', "; ")
}

/// The calls between each odd mark and the even one after it.
fn between(trace: &str) -> Vec<String> {
    let parts: Vec<Vec<String>> =
        trace
            .split_inclusive('\n')
            .fold(vec![Vec::new()], |mut parts, line| {
                if line.contains(MARK) {
                    parts.push(Vec::new());
                } else if let Some(call) = call(line) {
                    parts.last_mut().unwrap().push(call);
                }
                parts
            });
    assert!(
        parts.len() % 2 == 1 && parts.len() > 1,
        "marks come in pairs:\n{trace}"
    );
    parts.into_iter().skip(1).step_by(2).flatten().collect()
}

/// The name of a call, with the argument that matters; None for what is no call or does not count.
fn call(line: &str) -> Option<String> {
    let (name, rest) = line.split_once('(')?;
    let is_name = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name || MEMORY.contains(&name) {
        return None;
    }
    // glibc's fstat(3) is one or the other.
    let name = if name == "newfstatat" { "fstat" } else { name };
    let argument = match name {
        "epoll_ctl" | "fcntl" | "ioctl" | "socket" => rest.split([',', ')']).nth(1),
        "getsockopt" | "setsockopt" => rest.split([',', ')']).nth(2),
        _ => None,
    };
    Some(argument.map_or(name.to_owned(), |argument| {
        format!("{name} {}", argument.trim())
    }))
}
