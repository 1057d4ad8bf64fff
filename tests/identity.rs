//! Who a process is: by whom its sockets were opened, and not what it has become or seems to be.

#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "namespaces are entered between fork and exec")]

#[path = "util/engine.rs"]
mod engine;
#[path = "util/load.rs"]
mod load;
#[path = "util/process.rs"]
mod process;
#[path = "util/rendezvous.rs"]
mod rendezvous;
#[path = "util/server.rs"]
mod server;
#[path = "util/traffic.rs"]
mod traffic;
mod util;
#[path = "util/worker.rs"]
mod worker;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use engine::{Before, PATIENCE};
use process::Process;
use traffic::{ADDR, Traffic, assert_all_answered};
use util::{in_namespace, skip};

/// Many times what a start takes on a busy machine.
const SOON: Duration = Duration::from_secs(12);

/// Who has no rights, also in a user namespace that has its own (user_namespaces(7)).
const NOBODY: u32 = 65_534;

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    process::obey();
}

fn group(n: usize) -> String {
    format!("tcp {ADDR} {n}")
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip("who a process is (this one is not root)");
    }
    is_root
}

/// As with port 80: opened as root, which then becomes another user, and started again as root.
fn becomes_another_user(after_takeover: bool) {
    if !is_root() {
        return;
    }
    in_namespace("a server that was root", || {
        let start = |tag: u8| {
            let mut new = Process::start();
            new.tell(&format!("open {}", group(2)));
            let opened = new.opened(SOON).unwrap();
            if !after_takeover {
                new.ask(&format!("setuid {NOBODY}"));
            }
            new.ask(&format!("serve {tag}"));
            assert_eq!(new.take_over(PATIENCE).unwrap(), 0);
            if after_takeover {
                new.ask(&format!("setuid {NOBODY}"));
            }
            (new, opened)
        };
        let (mut old, opened) = start(1);
        assert_eq!(opened.before, Before::Nothing);
        let traffic = Traffic::tcp(ADDR);
        for tag in 2..5 {
            traffic.go_on(100);
            let (new, opened) = start(tag);
            assert_eq!(opened.before, Before::Process(old.pid()));
            assert!(opened.took < SOON, "{opened:?}");
            old.ends();
            assert_all_answered(ADDR, tag);
            old = new;
        }
        traffic.assert_nothing_lost("a server that was root");
    });
}

#[test]
fn a_server_that_was_root_when_it_opened_is_relieved_by_the_next() {
    becomes_another_user(false);
}

#[test]
fn a_server_that_was_root_when_it_took_over_is_relieved_by_the_next() {
    becomes_another_user(true);
}

/// It is the user that it runs as by now, and has no right to sockets that root opened.
#[test]
fn a_server_that_was_root_is_not_relieved_by_whom_it_has_become() {
    if !is_root() {
        return;
    }
    in_namespace("a user that a server has become", || {
        let mut old = Process::start();
        old.open(&group(2)).unwrap();
        old.ask(&format!("setuid {NOBODY}"));
        old.ask("serve 1");
        assert_eq!(old.take_over(PATIENCE).unwrap(), 0);
        let mut other = Process::start_as(NOBODY);
        other.tell(&format!("open {}", group(2)));
        let refused = other.opened(SOON).unwrap_err();
        assert!(refused.took < SOON, "{refused:?}");
        assert_all_answered(ADDR, 1);
        assert!(!old.is_relieved());
    });
}

/// Starts one in a user namespace of its own, as that user there.
///
/// The namespace has users from 100,000 on.
fn in_user_namespace(uid: u32) -> Process {
    let (mut asks, mut asked) = UnixStream::pair().unwrap();
    let (mut answers, mut answer) = UnixStream::pair().unwrap();
    let mapping = std::thread::spawn(move || {
        let mut pid = [0; 4];
        asks.read_exact(&mut pid).unwrap();
        let pid = u32::from_ne_bytes(pid);
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{pid}/{map}"), "0 100000 65536\n").unwrap();
        }
        answer.write_all(&[0]).unwrap();
    });
    let process = Process::start_with(|command: &mut Command| {
        // SAFETY: only system calls are made there, on memory of its own.
        unsafe {
            command.pre_exec(move || {
                check(libc::unshare(libc::CLONE_NEWUSER))?;
                asked.write_all(&libc::getpid().to_ne_bytes())?;
                answers.read_exact(&mut [0])?;
                check(libc::setgroups(0, std::ptr::null()))?;
                check(libc::setresgid(uid, uid, uid))?;
                check(libc::setresuid(uid, uid, uid))
            });
        }
    });
    mapping.join().unwrap();
    process
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many descriptors a server gives to a process that speaks as the next one.
fn given() -> usize {
    let stream = rendezvous::connect(&rendezvous::names()[0]).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    (&stream).write_all(&engine::hello()).unwrap();
    rendezvous::received(&stream).len()
}

/// There its number stands for every user that the namespace does not have.
#[test]
fn nobody_of_a_user_namespace_gives_nothing_to_a_user_outside() {
    if !is_root() {
        return;
    }
    in_namespace("one user", || {
        let server = Process::serving(&group(2), 1);
        assert!(given() >= 2, "the words are those of the next process");
        server.kill();
    });
    in_namespace("nobody of a user namespace", || {
        let mut victim = in_user_namespace(NOBODY);
        if let Err(error) = victim.open(&group(2)) {
            // That it cannot be done safely is also an answer.
            assert!(error.text.contains("user namespace"), "{error:?}");
            return;
        }
        victim.ask("serve 1");
        assert_eq!(victim.take_over(PATIENCE).unwrap(), 0);
        let stolen = util::as_user(1_234, "a user outside", given).unwrap();
        assert_eq!(stolen, 0, "descriptors that user 1234 has got");
        assert_all_answered(ADDR, 1);
        assert!(!victim.is_relieved());
    });
}

/// Others there have their users, and go on as anywhere.
#[test]
fn a_user_of_a_user_namespace_is_relieved_by_the_same() {
    if !is_root() {
        return;
    }
    in_namespace("a user of a user namespace", || {
        let mut old = in_user_namespace(1_000);
        old.serve(&group(2), 1);
        // Each has a namespace of its own, of the same users.
        let mut new = in_user_namespace(1_000);
        new.serve(&group(2), 2);
        old.ends();
        assert_all_answered(ADDR, 2);
    });
}

/// A server that is the first process of a namespace of processes.
fn in_pid_namespace() -> Process {
    let mut server = Process::start();
    server.ask("unshare-pids");
    assert_eq!(server.ask("fork"), "1");
    server
}

#[test]
fn a_predecessor_of_another_pid_namespace_has_no_number() {
    if !is_root() {
        return;
    }
    in_namespace("a predecessor of another pid namespace", || {
        let mut old = in_pid_namespace();
        old.serve(&group(2), 1);
        let mut new = in_pid_namespace();
        let opened = new.open(&group(2)).unwrap();
        assert_eq!(opened.before, Before::Unknown);
        new.ask("serve 2");
        assert_eq!(new.take_over(PATIENCE).unwrap(), 0);
        old.ends();
        assert_all_answered(ADDR, 2);
    });
}

#[test]
fn a_predecessor_of_an_inner_pid_namespace_has_its_number_here() {
    if !is_root() {
        return;
    }
    in_namespace("a predecessor of an inner pid namespace", || {
        let mut old = in_pid_namespace();
        old.serve(&group(2), 1);
        let mut new = Process::start();
        let opened = new.open(&group(2)).unwrap();
        let Before::Process(pid) = opened.before else {
            panic!("{opened:?}");
        };
        let program = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        assert_eq!(program(&pid.to_string()), program("self"), "{opened:?}");
        new.ask("serve 2");
        assert_eq!(new.take_over(PATIENCE).unwrap(), 0);
        old.ends();
    });
}
