//! The examples as processes, asked by clients that know no crate.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::{env, thread};

use reuseport::support;

use crate::util::{self, PATIENCE, skip};

/// How the lines begin by which an example says what to try next.
pub const TRY: &str = "try: ";

/// A running example, which does not outlive its test.
pub struct Process {
    pub child: Child,
    pub stdout: Receiver<String>,
    pub stderr: Receiver<String>,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
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

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended, and returns what it said.
    pub fn end(&mut self) -> (ExitStatus, String, String) {
        let [stdout, stderr] = [&self.stdout, &self.stderr].map(|pipe| {
            let text: Vec<_> = std::iter::from_fn(|| next(pipe)).collect();
            text.join("\n")
        });
        (self.child.wait().unwrap(), stdout, stderr)
    }

    /// SIGKILL; its sockets are closed when this returns.
    pub fn kill(&mut self) {
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

pub fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        // What a user might do next is no answer to a test.
        let lines = BufReader::new(pipe).lines().map_while(Result::ok);
        for line in lines.filter(|line| !line.starts_with(TRY)) {
            // Reads on where nobody listens any more: a full pipe would stop the process.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// The next line, or None at the end.
pub fn next(lines: &Receiver<String>) -> Option<String> {
    match lines.recv_timeout(PATIENCE) {
        Ok(line) => Some(line),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => panic!("no line in {PATIENCE:?}"),
    }
}

/// The program of an example, which cargo builds beside the tests.
pub fn program(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let dir = test.parent().and_then(Path::parent).unwrap();
    let program = dir.join("examples").join(name);
    assert!(
        program.exists(),
        "there is no {}: `cargo test` builds the examples, and `cargo test --test examples` does \
         not; run `cargo build --examples --all-features` first",
        program.display()
    );
    program
}

pub fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    command.stdin(Stdio::null());
    command
}

/// Starts an example, and waits until it says where it listens.
pub fn serve(example: &[&str], addr: &str) -> (Process, SocketAddr) {
    let (name, args) = example.split_first().unwrap();
    announced(Process::start(command(name).args(args).arg(addr)))
}

pub fn announced(process: Process) -> (Process, SocketAddr) {
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
pub fn ask(addr: SocketAddr) -> u32 {
    answer(begin(addr))
}

/// A connection on which half a request has been sent.
pub fn begin(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        .unwrap();
    stream
}

/// Sends the rest of the request, and returns who answers it.
pub fn answer(stream: TcpStream) -> u32 {
    pid(&body(stream))
}

/// Sends the rest of the request, and returns the answer.
pub fn body(mut stream: TcpStream) -> String {
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
pub fn pid(body: &str) -> u32 {
    body.strip_prefix("process ")
        .and_then(|body| body.strip_suffix('\n')?.parse().ok())
        .unwrap_or_else(|| panic!("{body:?} names no process"))
}

/// Asks until each of them has answered, which few connections do where the kernel spreads them.
pub fn all_answer(addr: SocketAddr, processes: &[&Process]) {
    let mut missing: BTreeSet<_> = processes.iter().map(|process| process.id()).collect();
    for _ in 0..500 {
        missing.remove(&ask(addr));
        if missing.is_empty() {
            return;
        }
    }
    panic!("{missing:?} did not answer any of 500 connections to {addr}");
}

pub fn spreads(what: &str) -> bool {
    let spreads = support().spreads;
    if !spreads {
        skip(&format!("{what} (this system does not spread connections)"));
    }
    spreads
}

/// Requests, each on a new connection, until it is ended.
pub struct Requests {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<BTreeMap<String, usize>>>,
}

impl Requests {
    pub fn start(addr: SocketAddr) -> Self {
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
    pub fn end(self, asked: &BTreeSet<String>) {
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
pub fn answers(addr: SocketAddr, who: &str) {
    assert!(
        (0..500).any(|_| body(begin(addr)) == who),
        "{who:?} answers none of 500 connections"
    );
}
