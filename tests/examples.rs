//! Runs every example as its users do: as processes, asked by clients that know no crate.

#![cfg(unix)]

mod util;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
#[cfg(target_os = "linux")]
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use reuseport::support;
use util::skip;

/// The examples that are TCP servers, and what chooses a runtime.
const SERVERS: [&[&str]; 10] = [
    &["std"],
    &["tokio"],
    &["async_std"],
    &["smol"],
    &["generic", "std"],
    &["generic", "tokio"],
    &["generic", "async-std"],
    &["generic", "smol"],
    &["http"],
    &["systemd"],
];

/// Nothing here takes a second; this is for machines that do something else besides.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running example, which does not outlive its test.
struct Process {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = util::spawn(command)
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self {
            child,
            stdout,
            stderr,
        }
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended, and returns what it said.
    fn end(&mut self) -> (ExitStatus, String, String) {
        let [stdout, stderr] = [&self.stdout, &self.stderr].map(|pipe| {
            let text: Vec<_> = std::iter::from_fn(|| next(pipe)).collect();
            text.join("\n")
        });
        (self.child.wait().unwrap(), stdout, stderr)
    }

    /// SIGKILL; its sockets are closed when this returns.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both do nothing where it has ended, and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            for line in &self.stderr {
                eprintln!("process {}: {line}", self.id());
            }
        }
    }
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // Reads on where nobody listens any more: a full pipe would stop the process.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// The next line, or None at the end.
fn next(lines: &Receiver<String>) -> Option<String> {
    match lines.recv_timeout(PATIENCE) {
        Ok(line) => Some(line),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => panic!("no line in {PATIENCE:?}"),
    }
}

/// The program of an example, which cargo builds beside the tests.
fn program(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let dir = test.parent().and_then(Path::parent).unwrap();
    let program = dir.join("examples").join(name);
    assert!(
        program.exists(),
        "there is no {}: `cargo test` builds the examples, and `cargo test --test examples` does \
         not; run `cargo build --examples` first",
        program.display()
    );
    program
}

fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    command.stdin(Stdio::null());
    command
}

/// Starts an example, and waits until it says where it listens.
fn serve(example: &[&str], addr: &str) -> (Process, SocketAddr) {
    let (name, args) = example.split_first().unwrap();
    announced(Process::start(command(name).args(args).arg(addr)))
}

fn announced(process: Process) -> (Process, SocketAddr) {
    let Some(line) = next(&process.stdout) else {
        panic!("process {} ended before it listened", process.id());
    };
    let addr = line
        .strip_prefix(&format!("process {} listens on ", process.id()))
        .and_then(|addr| addr.parse().ok())
        .unwrap_or_else(|| panic!("{line:?} is no line about process {}", process.id()));
    (process, addr)
}

/// The process that answers one connection.
fn ask(addr: SocketAddr) -> u32 {
    answer(begin(addr))
}

/// A connection on which half a request has been sent.
fn begin(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        .unwrap();
    stream
}

/// Sends the rest of the request, and returns who answers it.
fn answer(stream: TcpStream) -> u32 {
    pid(&body(stream))
}

/// Sends the rest of the request, and returns the answer.
fn body(mut stream: TcpStream) -> String {
    stream.write_all(b"Connection: close\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let length = format!("content-length: {}", body.len());
    assert!(
        head.to_lowercase().lines().any(|line| line == length),
        "{answer}"
    );
    body.to_owned()
}

/// The process that signs with `process 4711\n`.
fn pid(body: &str) -> u32 {
    body.strip_prefix("process ")
        .and_then(|body| body.strip_suffix('\n')?.parse().ok())
        .unwrap_or_else(|| panic!("{body:?} names no process"))
}

/// Asks until each of them has answered, which few connections do where the kernel spreads them.
fn all_answer(addr: SocketAddr, processes: &[&Process]) {
    let mut missing: BTreeSet<_> = processes.iter().map(|process| process.id()).collect();
    for _ in 0..500 {
        missing.remove(&ask(addr));
        if missing.is_empty() {
            return;
        }
    }
    panic!("{missing:?} did not answer any of 500 connections to {addr}");
}

fn spreads(what: &str) -> bool {
    let spreads = support().spreads;
    if !spreads {
        skip(&format!("{what} (this system does not spread connections)"));
    }
    spreads
}

#[test]
fn each_is_tested_and_says_how_to_run_it() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        // What several share.
        if path.is_dir() {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap();
        let command = format!(": `cargo run --example {name}");
        assert!(
            first.starts_with("//! ") && first.contains(&command),
            "{name}: {first}"
        );
        found.insert(name);
    }
    let tested = SERVERS.iter().map(|example| example[0]).chain([
        "fdstore", "load", "quic", "restart", "scale", "udp", "watch",
    ]);
    assert_eq!(found, tested.map(str::to_owned).collect());
}

#[test]
fn two_processes_share_a_port() {
    for example in SERVERS {
        let (first, addr) = serve(example, "127.0.0.1:0");
        // Clients that hang up at once, and in the middle of a request.
        drop(TcpStream::connect(addr).unwrap());
        drop(begin(addr));
        // An answer to half a request would be lost when the rest finds the connection closed.
        let mut stream = begin(addr);
        let soon = Duration::from_millis(50);
        stream.set_read_timeout(Some(soon)).unwrap();
        let early = stream.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(early, Err(ErrorKind::WouldBlock), "{example:?}");
        assert_eq!(answer(stream), first.id(), "{example:?}");

        let (second, same) = serve(example, &addr.to_string());
        assert_eq!(addr, same);
        if spreads("that two processes of an example both answer") {
            all_answer(addr, &[&first, &second]);
        }
    }
}

#[test]
fn every_runtime_shares_with_every_other() {
    let mut processes = Vec::new();
    let mut addr = "127.0.0.1:0".to_owned();
    for example in SERVERS {
        let (process, at) = serve(example, &addr);
        addr = at.to_string();
        processes.push(process);
    }
    if spreads("that processes of all examples share a port") {
        all_answer(addr.parse().unwrap(), &processes.iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_taken_port_is_one_readable_sentence() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp_addr = tcp.local_addr().unwrap();
    let udp_addr = udp.local_addr().unwrap();
    let others = [
        (["fdstore"], tcp_addr),
        (["restart"], tcp_addr),
        (["scale"], tcp_addr),
        (["udp"], udp_addr),
        (["quic"], udp_addr),
    ];
    let all = SERVERS.iter().map(|&example| (example, tcp_addr));
    let others = others.iter().map(|(name, addr)| (name.as_slice(), *addr));
    for (example, addr) in all.chain(others) {
        let (name, args) = example.split_first().unwrap();
        let command = &mut command(name);
        let (status, stdout, stderr) =
            Process::start(command.args(args).arg(addr.to_string())).end();
        assert_eq!(status.code(), Some(1), "{example:?}: {stderr}");
        assert_eq!(stdout, "", "{example:?}");
        assert_eq!(stderr.lines().count(), 1, "{example:?}: {stderr}");
        assert!(stderr.starts_with("cannot "), "{example:?}: {stderr}");
        assert!(stderr.contains(&addr.to_string()), "{example:?}: {stderr}");
        if cfg!(target_os = "linux") {
            assert!(
                stderr.contains("did not set SO_REUSEPORT"),
                "{example:?}: {stderr}"
            );
        }
    }
}

/// accept(2) fails with EMFILE as long as the clients are there, and the server is none the worse.
#[test]
fn servers_outlive_running_out_of_descriptors() {
    // axum's own loop serves `http` and `systemd`.
    for example in &SERVERS[..8] {
        let program = program(example[0]);
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -n 32; exec \"$0\" \"$@\""])
            .arg(program)
            .args(&example[1..])
            .arg("127.0.0.1:0")
            .stdin(Stdio::null());
        let (process, addr) = announced(Process::start(&mut command));
        let clients: Vec<_> = (0..40).map(|_| TcpStream::connect(addr).unwrap()).collect();
        let line = next(&process.stderr).expect("it runs on");
        assert!(
            line.starts_with("cannot take a connection: "),
            "{example:?}: {line}"
        );
        drop(clients);
        assert_eq!(ask(addr), process.id(), "{example:?}");
    }
}

#[test]
fn generic_refuses_an_unknown_runtime() {
    let (status, _, stderr) = Process::start(command("generic").arg("go")).end();
    assert_eq!(status.code(), Some(1));
    assert_eq!(stderr, "\"go\" is no runtime here");
}

#[test]
fn systemd_takes_the_listener_that_is_there() {
    // As systemd's does, it does not share its port, and so nobody else can have it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" 127.0.0.1:1",
        ])
        .arg(program("systemd"))
        .stdin(OwnedFd::from(listener));
    let process = Process::start(&mut command);
    // It has this process's copy of the listener, and would keep the port open.
    drop(command);
    let (mut process, at) = announced(process);
    assert_eq!(addr, at);
    for _ in 0..3 {
        assert_eq!(ask(addr), process.id());
    }
    process.kill();
    let error = TcpStream::connect(addr).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn udp_says_which_process_and_member_answered() {
    let (first, addr) = serve(&["udp"], "127.0.0.1:0");
    let (second, _) = serve(&["udp"], &addr.to_string());
    let cores = thread::available_parallelism().unwrap().get();
    let mut who = BTreeSet::new();
    for client in 0..200 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(addr).unwrap();
        let question = format!("hello from {client}");
        socket.send(question.as_bytes()).unwrap();
        let mut buf = [0; 100];
        let len = socket.recv(&mut buf).unwrap();
        let answer = std::str::from_utf8(&buf[..len]).unwrap();
        let (name, echo) = answer.split_once(": ").unwrap();
        assert_eq!(echo, question);
        let (process, member) = name
            .strip_prefix("process ")
            .unwrap()
            .split_once(" member ")
            .unwrap();
        who.insert((
            process.parse::<u32>().unwrap(),
            member.parse::<usize>().unwrap(),
        ));
    }
    assert!(who.iter().all(|&(_, member)| member < cores), "{who:?}");
    if spreads("that both processes of the udp example answer") {
        let processes: BTreeSet<_> = who.iter().map(|&(process, _)| process).collect();
        assert_eq!(processes, BTreeSet::from([first.id(), second.id()]));
        // 200 clients and two processes: as many members as there are, or too many to be hit.
        let least = if cores > 1 { 3 } else { 2 };
        assert!(who.len() >= least, "{who:?}");
    }
}

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
            stderr.starts_with("cannot see who is on port 80: "),
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
    let waiting = || reuseport::queue(&own).unwrap().len;
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
    let end = format!("nobody is on port {port}");
    while next(&running.stdout).expect("it runs on") != end {}
}

#[test]
fn watch_says_how_it_is_used() {
    let (status, _, stderr) = Process::start(command("watch").arg("http")).end();
    assert_eq!(status.code(), Some(1));
    assert_eq!(stderr, "usage: watch [port] [--once]");
    let (status, _, stderr) = Process::start(command("watch").args(["0", "--once"])).end();
    assert_eq!(status.code(), Some(1));
    assert!(
        stderr.starts_with("cannot see who is on port 0: "),
        "{stderr}"
    );
}

/// A client that trusts the certificate which the example prints.
#[cfg(target_os = "linux")]
fn quic_client(process: &Process) -> quinn::Endpoint {
    let line = next(&process.stdout).unwrap();
    let hex = line.strip_prefix("certificate ").unwrap();
    let cert: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect();
    let mut roots = quinn::rustls::RootCertStore::empty();
    roots.add(cert.into()).unwrap();
    let config = quinn::ClientConfig::with_root_certificates(roots.into()).unwrap();
    let mut client = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    client.set_default_client_config(config);
    client
}

/// The member that answers a question on a connection.
#[cfg(target_os = "linux")]
async fn quic_member(connection: &quinn::Connection, process: u32) -> usize {
    let exchange = async {
        let (mut question, mut answer) = connection.open_bi().await.unwrap();
        question.write_all(b"hello").await.unwrap();
        question.finish().unwrap();
        answer.read_to_end(100).await.unwrap()
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    answer
        .strip_prefix(&format!("process {process} member "))
        .and_then(|rest| rest.strip_suffix(": hello")?.parse().ok())
        .unwrap_or_else(|| panic!("{answer:?} names no member"))
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn quic_members_keep_their_clients() {
    let (process, addr) = serve(&["quic"], "127.0.0.1:0");
    let client = quic_client(&process);
    let cores = thread::available_parallelism().unwrap().get();
    let mut members = BTreeSet::new();
    for _ in 0..40 {
        // The kernel chooses by the port, so that every connection needs another.
        let rebind = || client.rebind(UdpSocket::bind("127.0.0.1:0").unwrap());
        rebind().unwrap();
        let connecting = client.connect(addr, "localhost").unwrap();
        let connection = tokio::time::timeout(PATIENCE, connecting).await.unwrap();
        let connection = connection.unwrap();
        let member = quic_member(&connection, process.id()).await;
        members.insert(member);
        for _ in 0..3 {
            rebind().unwrap();
            assert_eq!(quic_member(&connection, process.id()).await, member);
        }
        connection.close(0u8.into(), b"");
    }
    assert!(members.iter().all(|&member| member < cores), "{members:?}");
    // All 40 go to one of two by chance once in 2^39.
    assert!(cores == 1 || members.len() > 1, "{members:?}");

    let (status, stdout, stderr) = Process::start(command("quic").arg(addr.to_string())).end();
    assert_eq!((status.code(), stdout.as_str()), (Some(1), ""), "{stderr}");
    let taken = format!("cannot open a new group on {addr}: ");
    assert!(stderr.starts_with(&taken), "{stderr}");
}

/// An HTTP client that opens a connection for each request.
fn client() -> ureq::Agent {
    ureq::Agent::config_builder()
        .max_idle_connections(0)
        .proxy(None)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

/// Makes `n` requests from four threads, and counts which process answered how many.
fn load(agent: &ureq::Agent, url: &str, n: usize) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    thread::scope(|scope| {
        let one = || -> Vec<u32> {
            (0..n / 4)
                .map(|i| {
                    let answer = agent.get(url).call();
                    let mut answer = answer.unwrap_or_else(|error| panic!("request {i}: {error}"));
                    assert_eq!(answer.status(), 200);
                    pid(&answer.body_mut().read_to_string().unwrap())
                })
                .collect()
        };
        for thread in [(); 4].map(|()| scope.spawn(one)) {
            for pid in thread.join().unwrap() {
                *counts.entry(pid).or_default() += 1;
            }
        }
    });
    assert_eq!(counts.values().sum::<usize>(), n);
    counts
}

/// Each process answered, and on Linux, which spreads by a hash, at least a quarter of all.
fn assert_spread(counts: &BTreeMap<u32, usize>, processes: &[&Process]) {
    let all: usize = counts.values().sum();
    let least = if cfg!(target_os = "linux") {
        all / 4
    } else {
        1
    };
    let ids = processes.iter().map(|process| process.id());
    assert!(
        counts.keys().copied().eq(ids.collect::<BTreeSet<_>>()),
        "{counts:?}"
    );
    assert!(counts.values().all(|&count| count >= least), "{counts:?}");
}

#[test]
fn the_http_client_opens_a_connection_for_each_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    // Answers one request of each connection, and leaves it open for more.
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().take(10).map(Result::unwrap) {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nprocess 1\n";
            stream.write_all(answer.as_bytes()).unwrap();
            open.push(stream);
        }
    });
    let agent = client();
    for _ in 0..10 {
        let body = agent.get(&url).call().unwrap().body_mut().read_to_string();
        assert_eq!(pid(&body.unwrap()), 1);
    }
}

#[test]
fn three_http_servers_share_the_load_and_one_is_killed() {
    if !spreads("that three http servers share the load") {
        return;
    }
    let (first, addr) = serve(&["http"], "127.0.0.1:0");
    let (mut second, _) = serve(&["http"], &addr.to_string());
    let (third, _) = serve(&["http"], &addr.to_string());
    let (agent, url) = (client(), format!("http://{addr}/"));

    assert_spread(&load(&agent, &url, 3_000), &[&first, &second, &third]);
    // No request is under way: the queue of the one that goes is empty.
    second.kill();
    assert_spread(&load(&agent, &url, 1_000), &[&first, &third]);
}

/// Requests, each on a new connection, until it is ended.
#[cfg(target_os = "linux")]
struct Requests {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<BTreeMap<String, usize>>>,
}

#[cfg(target_os = "linux")]
impl Requests {
    fn start(addr: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let one = || {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            thread::spawn(move || {
                let mut counts = BTreeMap::new();
                while !stop.load(Ordering::Relaxed) {
                    // Panics where there is no answer, or another than 200.
                    *counts.entry(body(begin(addr))).or_default() += 1;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                counts
            })
        };
        let threads = vec![one(), one(), one(), one()];
        Self {
            stop,
            answered,
            threads,
        }
    }

    /// How many each has answered, of those that may have been asked; none was lost.
    fn end(self, asked: &BTreeSet<String>) {
        // However quick the rest was.
        util::until(|| (self.answered.load(Ordering::Relaxed) >= 300).then_some(()));
        self.stop.store(true, Ordering::Relaxed);
        let mut all: BTreeMap<String, usize> = BTreeMap::new();
        for thread in self.threads {
            for (who, n) in thread.join().expect("every request is answered") {
                *all.entry(who).or_default() += n;
            }
        }
        let strangers = all.keys().any(|who| !asked.contains(who));
        assert!(!strangers, "{all:?} is not of {asked:?}");
        assert!(all.len() > 1, "{all:?}");
    }
}

/// Asks until that one has answered.
#[cfg(target_os = "linux")]
fn answers(addr: SocketAddr, who: &str) {
    assert!(
        (0..500).any(|_| body(begin(addr)) == who),
        "{who:?} answers none of 500 connections"
    );
}

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
    assert_eq!((stdout.lines().count(), answered), (3, 100), "{stdout}");

    drop(server);
    let (status, stdout, stderr) = run(addr);
    assert!(status.success(), "{stderr}");
    assert_eq!(stdout.lines().last(), Some("100 lost"), "{stdout}");
    assert_eq!(stderr.lines().count(), 100, "{stderr}");
    assert!(
        stderr.lines().all(|line| line.starts_with("lost: ")),
        "{stderr}"
    );

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
