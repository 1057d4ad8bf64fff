//! The example `reload` under load: as a service of a real systemd, and as the first process of a container.

#![cfg(target_os = "linux")]

#[path = "util/programs.rs"]
mod programs;
#[path = "util/systemd.rs"]
mod systemd;
mod util;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;
use std::{fs, thread};

use programs::{Process, next};
use rustix::process::{Pid, Signal, kill_process};
use systemd::{Systemd, children, wait_for};
use util::{PATIENCE, in_namespace, skip};

const ADDR: &str = "127.0.0.1:8881";
const UNIT: &str = "reload.service";

/// What differs from the unit beside the example: systemd runs nothing else here, and keeps no journal.
const DROP_IN: &str = "[Unit]
DefaultDependencies=no
[Service]
ExecStart=
ExecStart=/run/test/reload 127.0.0.1:8881
StandardOutput=append:/run/test/log
StandardError=append:/run/test/log
";

/// What one client has got.
#[derive(Default)]
struct Got {
    /// How often each process has answered.
    answers: BTreeMap<String, usize>,
    connections: usize,
    failed: Vec<String>,
    refused: bool,
}

impl Got {
    /// Only these have answered, nothing has failed, and in the end it was refused.
    #[track_caller]
    fn assert_of(&self, all: &BTreeSet<String>) {
        assert_eq!(self.failed, Vec::<String>::new());
        assert!(self.refused);
        let strangers = self.answers.keys().any(|who| !all.contains(who));
        assert!(!strangers, "{:?} is not of {all:?}", self.answers);
    }
}

/// Clients that ask until they are told to stop, or the server is to end and refuses them.
struct Clients {
    answered: Arc<AtomicUsize>,
    stops: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Got>>,
}

impl Clients {
    /// One on each core that opens a connection for each request, and one that keeps its connection.
    fn start(addr: SocketAddr) -> Self {
        let mut this = Self {
            answered: Arc::default(),
            stops: Arc::default(),
            threads: Vec::new(),
        };
        let cores = thread::available_parallelism().unwrap().get();
        for keeps in (0..=cores).map(|number| number == cores) {
            let (answered, stops) = (Arc::clone(&this.answered), Arc::clone(&this.stops));
            let client = move || ask_on(addr, keeps, &answered, &stops);
            this.threads.push(thread::spawn(client));
        }
        this
    }

    /// Waits until some more have been answered.
    #[track_caller]
    fn go_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_for(|| (self.answered.load(Ordering::Relaxed) >= before + 50).then_some(()));
    }

    /// From now on they may be refused.
    fn may_be_refused(&self) {
        self.stops.store(true, Ordering::SeqCst);
    }

    fn end(self) -> Vec<Got> {
        let got = self.threads.into_iter();
        got.map(|thread| thread.join().unwrap()).collect()
    }
}

fn ask_on(addr: SocketAddr, keeps: bool, answered: &AtomicUsize, stops: &AtomicBool) -> Got {
    let mut got = Got::default();
    let mut kept = None;
    // A server that fails each time fails the test soon.
    while got.failed.len() < 10 {
        let stream = match kept.take() {
            Some(stream) => stream,
            None => match connect(addr) {
                Ok(stream) => {
                    got.connections += 1;
                    stream
                }
                Err(error)
                    if error.kind() == ErrorKind::ConnectionRefused
                        && stops.load(Ordering::SeqCst) =>
                {
                    got.refused = true;
                    break;
                }
                Err(error) => {
                    got.failed.push(format!("connect: {error}"));
                    continue;
                }
            },
        };
        match ask(stream, keeps) {
            Ok((who, stream)) => {
                *got.answers.entry(who).or_default() += 1;
                answered.fetch_add(1, Ordering::Relaxed);
                kept = stream;
            }
            Err(error) => got.failed.push(format!("keeps: {keeps}: {error}")),
        }
    }
    got
}

fn connect(addr: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

/// Who answers, and the connection where it stays open.
fn ask(
    mut stream: BufReader<TcpStream>,
    keeps: bool,
) -> io::Result<(String, Option<BufReader<TcpStream>>)> {
    let connection = if keeps { "" } else { "Connection: close\r\n" };
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{connection}\r\n");
    stream.get_mut().write_all(request.as_bytes())?;
    let (mut head, mut len, mut closes) = (String::new(), 0, false);
    while !head.ends_with("\r\n\r\n") {
        let start = head.len();
        if stream.read_line(&mut head)? == 0 {
            return Err(io::Error::other(format!("it ends after {head:?}")));
        }
        let line = head[start..].trim_end().to_lowercase();
        closes |= line == "connection: close";
        if let Some(value) = line.strip_prefix("content-length: ") {
            len = value.parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    if !head.starts_with("HTTP/1.1 200 OK\r\n") {
        return Err(io::Error::other(head));
    }
    let body = String::from_utf8(body).map_err(io::Error::other)?;
    Ok((body.trim_end().to_owned(), (!closes).then_some(stream)))
}

/// A service of systemd, and what is asked of it.
struct Service {
    systemd: Systemd,
    /// The main process.
    pid: String,
    /// All that have been.
    all: BTreeSet<String>,
}

impl Service {
    fn start(systemd: Systemd, unit: &str) -> Self {
        let mut this = Self {
            systemd,
            pid: "0".to_owned(),
            all: BTreeSet::new(),
        };
        this.install(&fs::read(programs::program("reload")).unwrap());
        let system = this.systemd.path("/run/systemd/system");
        let units = format!("{}/examples/reload", env!("CARGO_MANIFEST_DIR"));
        fs::copy(format!("{units}/{unit}"), system.join(UNIT)).unwrap();
        fs::create_dir(system.join(format!("{UNIT}.d"))).unwrap();
        fs::write(system.join(format!("{UNIT}.d/test.conf")), DROP_IN).unwrap();
        this.ctl(&["daemon-reload"]);
        this.ctl(&["start", "--no-block", UNIT]);
        this.follow();
        this
    }

    #[track_caller]
    fn ctl(&self, args: &[&str]) {
        self.systemd.ctl(args).unwrap();
    }

    fn property(&self, name: &str) -> String {
        self.systemd.property(UNIT, name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.systemd.path("/run/test/log")).unwrap_or_default()
    }

    /// Replaces the program by another, in one step.
    fn install(&self, program: &[u8]) {
        let [new, path] = ["/run/test/new", "/run/test/reload"].map(|path| self.systemd.path(path));
        fs::write(&new, program).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn reload(&self) {
        self.ctl(&["reload", "--no-block", UNIT]);
    }

    /// Waits until another process is the main one.
    #[track_caller]
    fn follow(&mut self) {
        self.pid = wait_for(|| {
            let pid = self.property("MainPID");
            let is_other = pid != self.pid && self.property("ActiveState") == "active";
            is_other.then_some(pid)
        });
        self.all.insert(format!("process {}", self.pid));
    }

    /// Waits until systemd and the log say that the new program has failed; the old one serves.
    #[track_caller]
    fn goes_on(&self, why: &str) {
        wait_for(|| self.property("StatusText").contains(why).then_some(()));
        assert!(self.log().contains(why), "{}", self.log());
        wait_for(|| (self.property("ActiveState") == "active").then_some(()));
        assert_eq!(self.property("MainPID"), self.pid);
        let (who, _) = ask(connect(ADDR.parse().unwrap()).unwrap(), false).unwrap();
        assert_eq!(who, format!("process {}", self.pid));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Whether ExecReload= finds the program, which systemd looks for in these places.
fn has_kill(what: &str) -> bool {
    let has = ["/usr/bin/kill", "/bin/kill"].map(|path| Path::new(path).exists());
    if has == [false; 2] {
        skip(&format!("{what} (there is no program kill)"));
    }
    has != [false; 2]
}

/// Reloads a service ten times and stops it, with a unit of the example; false where it is not checked.
fn lives(unit: &str) {
    let what = format!("a service under systemd with {unit}");
    in_namespace(&what, || {
        let Some(systemd) = Systemd::start(&what) else {
            return;
        };
        let version = systemd.version();
        if unit == "notify-reload.service" && version < 253 {
            skip(&format!(
                "{what} (systemd {version} has no Type=notify-reload)"
            ));
            return;
        }
        if !has_kill(&what) {
            return;
        }
        let mut service = Service::start(systemd, unit);
        let program = fs::read(programs::program("reload")).unwrap();
        let clients = Clients::start(ADDR.parse().unwrap());
        let (mut longest, begin) = (0, Instant::now());
        for _ in 0..10 {
            clients.go_on();
            let begin = Instant::now();
            service.reload();
            service.follow();
            longest = longest.max(begin.elapsed().as_millis());
        }
        let reloads = begin.elapsed();

        clients.go_on();
        service.install(b"#!/bin/sh\nexit 1\n");
        service.reload();
        service.goes_on("exit status: 1");
        service.install(b"this is no program");
        service.reload();
        service.goes_on("Exec format error");
        service.install(b"#!/bin/sh\nexec sleep 1000\n");
        service.reload();
        service.goes_on("it hung");
        assert_eq!(service.systemd.zombies(), Vec::<String>::new());
        service.install(&program);
        service.reload();
        service.follow();
        clients.go_on();

        clients.may_be_refused();
        let begin = Instant::now();
        service.ctl(&["stop", "--no-block", UNIT]);
        wait_for(|| (service.property("ActiveState") == "inactive").then_some(()));
        let stop = begin.elapsed();
        assert_eq!(service.property("Result"), "success");
        let got = clients.end();
        for got in &got {
            got.assert_of(&service.all);
        }
        let kept = got.last().unwrap();
        assert_eq!(kept.answers.len(), service.all.len(), "{:?}", kept.answers);
        let answers: usize = got.iter().flat_map(|got| got.answers.values()).sum();
        println!(
            "measured: systemd {version}, {unit}: 10 reloads in {reloads:?}, the longest {longest} ms; \
             stopped in {stop:?}; {answers} answers, none lost; \
             {} of them on {} kept connections",
            kept.answers.values().sum::<usize>(),
            kept.connections
        );
    });
}

#[test]
fn a_service_is_reloaded_and_stopped_under_load() {
    lives("reload.service");
}

#[test]
fn a_service_says_itself_when_it_is_reloaded() {
    lives("notify-reload.service");
}

/// The two before it are there for five seconds more, and hide from systemd how it ends.
#[test]
fn a_successor_that_dies_is_started_again() {
    let what = "a service under systemd whose new process dies";
    in_namespace(what, || {
        let Some(systemd) = Systemd::start(what) else {
            return;
        };
        if !has_kill(what) {
            return;
        }
        let mut service = Service::start(systemd, "reload.service");
        for _ in 0..2 {
            service.reload();
            service.follow();
        }
        service.ctl(&["kill", "--kill-who=main", "--signal=KILL", UNIT]);
        let begin = Instant::now();
        wait_for(|| (service.property("NRestarts") == "1").then_some(()));
        service.follow();
        println!("measured: started again after {:?}", begin.elapsed());
        let (who, _) = ask(connect(ADDR.parse().unwrap()).unwrap(), false).unwrap();
        assert_eq!(who, format!("process {}", service.pid));
    });
}

/// The example as process 1 of its PID namespace, and what stands for the container: it ends with it.
fn container() -> Option<(Process, Pid)> {
    let mut command = Command::new("unshare");
    command
        .args(["--fork", "--kill-child", "--pid", "--mount-proc"])
        .arg(programs::program("reload"))
        .arg(ADDR)
        .stdin(Stdio::null());
    let process = Process::start(&mut command);
    match next(&process.stdout) {
        Some(line) => assert_eq!(line, format!("process 1 listens on {ADDR}")),
        None => {
            skip(&format!(
                "a first process (unshare: {:?})",
                next(&process.stderr)
            ));
            return None;
        }
    }
    let first = children(process.id())[0];
    Some((process, first))
}

/// Waits until the next process serves, and returns what it says of itself.
#[track_caller]
fn successor(container: &Process) -> String {
    let line = next(&container.stdout).unwrap();
    let who = line.strip_suffix(&format!(" listens on {ADDR}"));
    who.unwrap_or_else(|| panic!("{line:?}")).to_owned()
}

#[test]
fn the_first_process_of_a_container_lives_on() {
    in_namespace("the first process of a container", || {
        let Some((mut container, first)) = container() else {
            return;
        };
        let clients = Clients::start(ADDR.parse().unwrap());
        let mut all = BTreeSet::from(["process 1".to_owned()]);
        let mut last = "process 1".to_owned();
        for _ in 0..3 {
            clients.go_on();
            kill_process(first, Signal::HUP).unwrap();
            let next_one = successor(&container);
            let answered = next(&container.stdout).unwrap();
            assert_eq!(answered, format!("{last} has answered all"));
            last = next_one;
            all.insert(last.clone());
        }
        clients.go_on();
        clients.may_be_refused();
        kill_process(first, Signal::TERM).unwrap();
        let (status, stdout, stderr) = container.end();
        assert!(status.success(), "{status}: {stderr}");
        assert_eq!(
            (stdout, stderr),
            (format!("{last} has answered all"), String::new())
        );
        for got in clients.end() {
            got.assert_of(&all);
        }
    });
}

#[test]
fn a_container_ends_when_its_server_dies() {
    in_namespace("the first process of a container", || {
        let Some((mut container, first)) = container() else {
            return;
        };
        kill_process(first, Signal::HUP).unwrap();
        successor(&container);
        let serves = children(first.as_raw_nonzero().get() as u32);
        kill_process(serves[0], Signal::KILL).unwrap();
        let (status, _, stderr) = container.end();
        assert_eq!(status.code(), Some(1));
        assert!(stderr.contains("signal: 9 (SIGKILL)"), "{stderr}");
    });
}
