//! The examples under load: shared, restarted, scaled, and handed to systemd and back.

#![cfg(unix)]

#[path = "util/programs.rs"]
mod programs;
mod util;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
#[cfg(target_os = "linux")]
use std::os::fd::{AsRawFd, OwnedFd};
#[cfg(target_os = "linux")]
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
#[cfg(target_os = "linux")]
use std::{env, fs, process};

use programs::{Process, command, next, serve};
#[cfg(target_os = "linux")]
use programs::{Requests, announced, answer, answers, ask, begin, body, program};
use util::PATIENCE;

#[cfg(target_os = "linux")]
#[test]
fn restart_hands_over_under_load() {
    // Port 0 would be another one each time.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (mut old, addr) = serve(&["restart"], &addr);
    let requests = Requests::start(addr);
    let mut all = BTreeSet::new();
    for _ in 0..3 {
        answers(addr, &format!("process {}\n", old.id()));
        let held = begin(addr);
        let (new, same) = serve(&["restart"], &addr.to_string());
        assert_eq!(addr, same);
        let (before, after) = (old.id(), new.id());
        assert_eq!(
            next(&new.stdout).unwrap(),
            format!("process {after} took over from process {before}: 0 connections lost")
        );
        assert_eq!(ask(addr), after);
        let relieved = format!("process {before} is relieved, and finishes its connections");
        assert_eq!(next(&old.stdout), Some(relieved));
        // It waits for this one.
        assert_eq!(answer(held), before);
        let (status, stdout, stderr) = old.end();
        assert!(status.success(), "{status}: {stderr}");
        assert_eq!(
            (&*stdout, &*stderr),
            (&*format!("process {before} ends"), "")
        );
        all.insert(format!("process {before}\n"));
        old = new;
    }
    answers(addr, &format!("process {}\n", old.id()));
    all.insert(format!("process {}\n", old.id()));
    requests.end(&all);
}

/// A version that is fit takes over, and one that is not goes back by itself: no client is lost by either.
#[cfg(target_os = "linux")]
#[test]
fn canary_tries_a_version_under_load() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (mut old, addr) = serve(&["canary"], &addr);
    let first = old.id();
    let took_over = |process: &Process| {
        let expected = format!(
            "process {} has taken over: 0 connections lost",
            process.id()
        );
        assert_eq!(next(&process.stdout), Some(expected));
    };
    took_over(&old);
    let requests = Requests::start(addr);
    let start = |how: &[&str]| {
        let mut command = command("canary");
        announced(Process::start(command.arg(addr.to_string()).args(how))).0
    };
    let parts = |process: &Process, parts: &[&str]| {
        for part in parts {
            let id = process.id();
            let expected = format!("process {id} has {part} % of the connections");
            assert_eq!(next(&process.stdout), Some(expected));
        }
    };
    let mut unfit = start(&["unfit"]);
    let id = unfit.id();
    parts(&unfit, &["1"]);
    let (status, _, stderr) = unfit.end();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(&format!("process {id} gave its part back: ")),
        "{stderr}"
    );
    assert_eq!(ask(addr), first);

    let fit = start(&[]);
    parts(&fit, &["1", "10", "50"]);
    took_over(&fit);
    assert_eq!(ask(addr), fit.id());
    let (status, _, stderr) = old.end();
    assert!(status.success(), "{status}: {stderr}");
    let all = [first, id, fit.id()].map(|id| format!("process {id}\n"));
    requests.end(&all.into());
}

#[cfg(target_os = "linux")]
#[test]
fn scale_adds_and_takes_away_under_load() {
    let mut command = Command::new(program("scale"));
    command.arg("127.0.0.1:0").stdin(Stdio::piped());
    let (mut process, addr) = announced(Process::start(&mut command));
    let mut stdin = process.child.stdin.take().unwrap();
    let id = process.id();
    let member = |number: usize| format!("process {id} member {number}\n");
    let serves = |process: &Process, number: usize| {
        assert_eq!(
            next(&process.stdout),
            Some(format!("member {number} serves"))
        );
        answers(addr, &member(number));
    };
    let leaves = |process: &Process, number: usize| {
        let line = next(&process.stdout).unwrap();
        let left = format!("member {number} has left: Lossless, 0 lost, after ");
        assert!(line.starts_with(&left), "{line}");
        for _ in 0..100 {
            assert_ne!(body(begin(addr)), member(number));
        }
    };
    serves(&process, 0);
    serves(&process, 1);
    let requests = Requests::start(addr);
    for _ in 0..2 {
        stdin.write_all(b"+\n").unwrap();
        serves(&process, 2);
        stdin.write_all(b"-\n").unwrap();
        leaves(&process, 2);
    }
    stdin.write_all(b"-\n").unwrap();
    leaves(&process, 1);
    stdin.write_all(b"-\n").unwrap();
    assert_eq!(next(&process.stdout).unwrap(), "+ or -, and not the last");
    assert_eq!(body(begin(addr)), member(0));
    stdin.write_all(b"+\n").unwrap();
    serves(&process, 1);

    requests.end(&[member(0), member(1), member(2)].into());
    drop(stdin);
    let (status, stdout, stderr) = process.end();
    assert!(status.success(), "{status}");
    assert_eq!((&*stdout, &*stderr), ("", ""));
}

#[test]
fn load_counts_what_is_answered_and_what_is_lost() {
    let (server, addr) = serve(&["http"], "127.0.0.1:0");
    let run = |addr: SocketAddr| {
        Process::start(command("load").args([&*addr.to_string(), "50", "2"])).end()
    };
    let (status, stdout, stderr) = run(addr);
    assert!(status.success(), "{stderr}");
    assert_eq!(stderr, "");
    let answered: usize = stdout
        .lines()
        .filter_map(|line| match line.strip_prefix("0 lost")? {
            "" => Some(0),
            line => line
                .strip_prefix(", ")?
                .strip_suffix(&format!(" by process {}", server.id()))?
                .parse()
                .ok(),
        })
        .sum();
    // A line before all, one each second, one for what was open then, and two of what was counted.
    assert_eq!((stdout.lines().count(), answered), (6, 100), "{stdout}");
    let all = |answered, lost| {
        format!(
            "100 connections with one request each: {answered} answered with 200, {lost} lost\n\
             lost: refused, reset, closed before the answer was whole, or none in 10s"
        )
    };
    assert!(stdout.ends_with(&all(100, 0)), "{stdout}");

    drop(server);
    let (status, stdout, stderr) = run(addr);
    assert!(status.success(), "{stderr}");
    assert!(stdout.ends_with(&all(0, 100)), "{stdout}");
    assert_eq!(stderr.lines().count(), 100, "{stderr}");
    assert!(
        stderr.lines().all(|line| line.starts_with("lost: ")),
        "{stderr}"
    );

    // A name, whatever addresses it has.
    let (server, addr) = serve(&["http"], "127.0.0.1:0");
    let name = format!("localhost:{}", addr.port());
    let (status, stdout, stderr) = Process::start(command("load").args([&*name, "50", "2"])).end();
    assert!(status.success(), "{stderr}");
    assert!(stdout.ends_with(&all(100, 0)), "{stdout}");
    drop(server);
    let (status, _, stderr) = Process::start(command("load").args(["nowhere"])).end();
    assert_eq!(status.code(), Some(1));
    assert!(stderr.starts_with("cannot ask nowhere: "), "{stderr}");

    let (status, _, stderr) = Process::start(command("load").args(["localhost", "0"])).end();
    assert_eq!(status.code(), Some(1));
    assert_eq!(
        stderr,
        "usage: load [address] [connections a second] [seconds]"
    );
}

/// What systemd's descriptor store does.
#[cfg(target_os = "linux")]
struct Manager {
    path: PathBuf,
    socket: std::os::unix::net::UnixDatagram,
    /// By their names.
    store: BTreeMap<String, OwnedFd>,
}

#[cfg(target_os = "linux")]
impl Manager {
    fn new() -> Self {
        let path = env::temp_dir().join(format!("reuseport-notify-{}", process::id()));
        let _ = fs::remove_file(&path);
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            path,
            socket,
            store: BTreeMap::new(),
        }
    }

    /// Takes one descriptor in.
    fn keep(&mut self) {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let (mut text, mut space) = (
            [0; 200],
            [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))],
        );
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [std::io::IoSliceMut::new(&mut text)];
        let message = recvmsg(
            &self.socket,
            &mut parts,
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        let text = std::str::from_utf8(&text[..message.unwrap().bytes]).unwrap();
        let mut fds = ancillary.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
            _ => Vec::new(),
        });
        let name = text.strip_prefix("FDSTORE=1\nFDNAME=").unwrap();
        let fd = fds.next().expect("it comes with a descriptor");
        assert_eq!(fds.count(), 0, "{text}");
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        let inode_now = inode(&fd);
        let known = self.store.insert(name.trim_end().to_owned(), fd);
        if let Some(known) = known {
            assert_eq!(inode(&known), inode_now, "{text}");
        }
    }

    /// Starts the service with all that is in the store.
    #[allow(
        unsafe_code,
        reason = "descriptors have the numbers that systemd gives them"
    )]
    fn start(&self) -> Process {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("sh");
        command
            .args(["-c", "export LISTEN_PID=$$; exec \"$0\" 127.0.0.1:0"])
            .arg(program("fdstore"))
            .env("NOTIFY_SOCKET", &self.path)
            .stdin(Stdio::null());
        if !self.store.is_empty() {
            // Against their order, which is systemd's own.
            let names: Vec<_> = self.store.keys().rev().map(String::as_str).collect();
            command
                .env("LISTEN_FDS", names.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
        }
        // Copies with numbers beyond all that they are to get.
        let fds: Vec<_> = self
            .store
            .values()
            .rev()
            .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 500).unwrap())
            .collect();
        let place = move || {
            for (fd, number) in fds.iter().zip(3..) {
                // SAFETY: dup2 touches no memory, and what had the number in this child is nobody's.
                if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: between fork and exec only dup2 is called, which is safe there.
        unsafe { command.pre_exec(place) };
        Process::start(&mut command)
    }
}

#[cfg(target_os = "linux")]
impl Drop for Manager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn fdstore_loses_no_connection_while_its_service_restarts() {
    use rustix::process::{Pid, Signal, kill_process};
    let members = thread::available_parallelism().unwrap().get();
    let mut manager = Manager::new();
    let (mut process, addr) = announced(manager.start());
    (0..members).for_each(|_| manager.keep());
    let names: BTreeSet<_> = (0..members).map(|number| number.to_string()).collect();
    assert!(
        manager.store.keys().cloned().eq(names),
        "{:?}",
        manager.store
    );
    let requests = Requests::start(addr);
    let mut all = BTreeSet::new();
    for _ in 0..2 {
        let held = begin(addr);
        answers(addr, &format!("process {}\n", process.id()));
        kill_process(Pid::from_child(&process.child), Signal::INT).unwrap();
        assert_eq!(answer(held), process.id());
        let (status, _, stderr) = process.end();
        assert!(status.success(), "{status}: {stderr}");
        assert_eq!(stderr, "");
        all.insert(format!("process {}\n", process.id()));

        // Nobody is there.
        let waiting: Vec<_> = (0..50).map(|_| begin(addr)).collect();
        let (new, same) = announced(manager.start());
        assert_eq!(addr, same);
        // By the names that they had.
        (0..members).for_each(|_| manager.keep());
        assert_eq!(manager.store.len(), members);
        for stream in waiting {
            assert_eq!(answer(stream), new.id());
        }
        process = new;
    }
    all.insert(format!("process {}\n", process.id()));
    requests.end(&all);
}
