//! Runs every example as its users do: as processes, asked by clients that know no crate.

#![cfg(unix)]

#[path = "util/programs.rs"]
mod programs;
mod util;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use programs::{
    Process, TRY, all_answer, announced, answer, ask, begin, command, next, program, serve, spreads,
};
use util::PATIENCE;

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

#[test]
fn each_is_tested_and_says_how_to_run_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [here, heavy] = ["examples", "heavy/examples"].map(|dir| fs::read_dir(root.join(dir)));
    let mut found = BTreeSet::new();
    for entry in here.unwrap().chain(heavy.unwrap()) {
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
        "canary", "fdstore", "load", "quic", "reload", "restart", "scale", "udp", "watch",
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
fn each_says_what_to_try_next() {
    let others: [&[&str]; 6] = [
        &["fdstore"],
        &["quic"],
        &["reload"],
        &["restart"],
        &["scale"],
        &["udp"],
    ];
    for example in SERVERS.into_iter().chain(others) {
        if !cfg!(target_os = "linux") && ["reload", "restart", "quic"].contains(&example[0]) {
            continue;
        }
        let mut command = command(example[0]);
        // Where `scale` reads, nothing comes and nothing ends.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // Port 0 is another one each time, and so no port of generations.
        let addr = match example[0] {
            "reload" | "restart" => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                listener.local_addr().unwrap().to_string()
            }
            _ => "127.0.0.1:0".to_owned(),
        };
        let mut child = util::spawn(command.args(&example[1..]).arg(addr)).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.contains(" listens on "), "{example:?}: {first}");
        let tried = lines.map(Result::unwrap).find(|line| line.starts_with(TRY));
        assert!(tried.is_some(), "{example:?}");
        child.kill().unwrap();
        child.wait().unwrap();
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
        (["reload"], tcp_addr),
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
        let sentence = stderr.strip_prefix("Error: ").unwrap_or(&stderr);
        assert!(sentence.starts_with("cannot "), "{example:?}: {stderr}");
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
    let why = "\"go\" is no runtime here: std, tokio, async-std and smol are";
    assert_eq!(stderr, why);
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
