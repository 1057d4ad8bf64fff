//! The example that draws a port, beside servers that are on it.

#![cfg(unix)]

#[path = "../../tests/util/programs.rs"]
mod programs;
#[path = "../../tests/util/mod.rs"]
mod util;

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;
use std::{fs, process};

use programs::{Process, command, next, serve};
use util::PATIENCE;

/// What `watch` prints, without what changes from one look to the next.
fn watched(lines: impl Iterator<Item = String>) -> BTreeSet<String> {
    lines
        .map(|line| match line.split_once("  open ") {
            Some((line, _)) => line.to_owned(),
            None => line,
        })
        .collect()
}

#[test]
fn watch_shows_every_process_and_its_queue() {
    if !cfg!(target_os = "linux") {
        let (status, _, stderr) = Process::start(command("watch").arg("80")).end();
        assert_eq!(status.code(), Some(1));
        assert!(
            stderr.starts_with("cannot see the sockets on port 80: "),
            "{stderr}"
        );
        return;
    }
    let (first, addr) = serve(&["http"], "127.0.0.1:0");
    let (second, _) = serve(&["http"], &addr.to_string());
    // A stranger, which nobody asks anything: all that it gets waits.
    let own = reuseport::Options::new()
        .backlog(9)
        .listen::<reuseport::Std>(addr)
        .unwrap();
    let clients: Vec<_> = (0..4).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let waiting = || reuseport::queue(&own).unwrap().waiting;
    let limit = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let uid = fs::metadata("/proc/self").unwrap().uid();
    let line = |id: u32, name: &str, queue: String| {
        format!("socket TCP {addr}  user {uid}  process {id} {name}  queue {queue}  lost 0")
    };
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    let expected = || {
        BTreeSet::from([
            line(first.id(), "http", format!("0/{}", limit.trim())),
            line(second.id(), "http", format!("0/{}", limit.trim())),
            line(process::id(), name.trim_end(), format!("{}/9", waiting())),
        ])
    };
    let port = addr.port().to_string();
    // Until both have taken what is theirs.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, stdout, stderr) =
            Process::start(command("watch").args([&port, "--once"])).end();
        assert!(status.success(), "{stderr}");
        let strangers = stdout.lines().filter(|line| line.ends_with("  stranger"));
        assert!(
            strangers.eq(stdout.lines().filter(|line| line.contains("/9  lost"))),
            "{stdout}"
        );
        if watched(stdout.lines().map(str::to_owned)) == expected() {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{stdout}\nis not\n{:?}",
            expected()
        );
    }
    // Without `--once` it goes on. Until it is a program, what other tests start has `own` too.
    let running = Process::start(command("watch").arg(&port));
    let mut right = 0;
    while right < 2 {
        let lines: Vec<_> = (0..3).map_while(|_| next(&running.stdout)).collect();
        right += usize::from(watched(lines.iter().cloned()) == expected());
        assert!(Instant::now() < deadline, "{lines:?}");
    }
    drop((clients, own));
    drop((first, second));
    let end = format!("no socket is on port {port}");
    while next(&running.stdout).expect("it runs on") != end {}
}

#[test]
fn watch_shows_a_socket_that_is_stuck_until_it_takes_something() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let group = reuseport::Options::new().group("127.0.0.1:0", 2).unwrap();
    let addr = group.local_addr();
    let running = Process::start(command("watch").arg(addr.port().to_string()));
    let deadline = Instant::now() + PATIENCE;
    // Which of the two lines that belong to one look end so.
    let wait_for = |stuck: usize| {
        loop {
            let lines: Vec<_> = (0..2).map_while(|_| next(&running.stdout)).collect();
            if lines
                .iter()
                .filter(|line| line.ends_with("  stuck"))
                .count()
                == stuck
            {
                return;
            }
            assert!(Instant::now() < deadline, "{lines:?}");
        }
    };
    wait_for(0);
    let _client = TcpStream::connect(addr).unwrap();
    wait_for(1);
    for member in group.iter() {
        let listener = std::os::fd::AsFd::as_fd(member)
            .try_clone_to_owned()
            .unwrap();
        let listener = std::net::TcpListener::from(listener);
        listener.set_nonblocking(true).unwrap();
        let _ = listener.accept();
    }
    wait_for(0);
}

#[test]
fn watch_says_how_it_is_used() {
    let (status, _, stderr) = Process::start(command("watch").arg("http")).end();
    assert_eq!(status.code(), Some(1));
    assert_eq!(stderr, "usage: watch [port] [--once]");
    let (status, _, stderr) = Process::start(command("watch").args(["0", "--once"])).end();
    assert_eq!(status.code(), Some(1));
    assert!(
        stderr.starts_with("cannot see the sockets on port 0: "),
        "{stderr}"
    );
}
