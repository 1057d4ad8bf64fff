//! A server that starts its next process, which is this test binary itself: whatever becomes of that, one serves.

#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "waiting for any child, and forking, are libc's")]

mod util;
#[path = "util/worker.rs"]
mod worker;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use std::{env, fs, io, process, ptr, thread};

use reuseport::{Error, Generation, Options, Program, Restart, Successor};
use smol::future::{block_on, poll_once};
use util::{PATIENCE, assert_drained, in_namespace, is_child};
use worker::{WHO, Worker};

/// What the next process is to do, in words.
const NEXT: &str = "REUSEPORT_TEST_NEXT";

/// Where they serve, in a namespace of their own.
const ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4000);

/// Who answers: this process, and one that it has started.
const OLD: u8 = 1;
const NEW: u8 = 2;

/// Longer than a process takes that does not hang, on any machine.
const LONG: Duration = PATIENCE;

/// Runs a test in a process and a network of its own.
macro_rules! alone {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            match is_child(stringify!($name)) {
                true => drop(in_namespace(stringify!($name), alone::$name)),
                false => util::in_child(stringify!($name)),
            }
        })*
    };
}

alone!(
    a_child_takes_over
    a_child_that_ends_is_told
    what_is_no_program_is_told
    a_child_that_hangs_is_killed
    one_is_started_at_a_time
    at_the_very_timeout_one_serves
    a_child_that_dies_in_its_takeover_is_told
    what_is_dropped_goes_on
    another_process_may_take_over_meanwhile
    a_server_that_stops_ends_what_it_has_started
    a_takeover_that_has_begun_goes_on_after_stop
    a_child_that_is_tried_has_no_time_limit
    a_child_that_is_tried_goes_on_after_stop
    nothing_is_left_behind
    a_child_inherits_no_socket
    other_children_are_left_alone
    a_script_may_stand_above_the_server
    who_does_not_serve_starts_nothing
    a_fork_has_no_such_child
);

/// The next process: what it does is in its environment, and it ends when its standard input does.
#[test]
fn next() {
    let Ok(words) = env::var(NEXT) else {
        return;
    };
    let line = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut line = UnixStream::from(line);
    let (tell, told) = mpsc::channel();
    let mut reads = line.try_clone().unwrap();
    thread::spawn(move || {
        while reads.read_exact(&mut [0]).is_ok() {
            tell.send(()).unwrap();
        }
        process::exit(0);
    });
    let (over, mut opened) = (Arc::new(AtomicBool::new(false)), None);
    for word in words.split(' ') {
        match word.split_once('=').unwrap_or((word, "")) {
            ("open", _) => {
                let (group, generation) = Options::new().generation(ADDR, 1).unwrap();
                let member = group.into_iter().next().unwrap();
                let worker = Worker::start_until(member.into_std(), NEW, over.clone());
                opened = Some((generation, worker));
            }
            ("say", _) => line.write_all(&process::id().to_ne_bytes()).unwrap(),
            ("wait", _) => told.recv().unwrap(),
            // Nanoseconds of the clock.
            ("at", time) => {
                let time = Duration::from_nanos(time.parse().unwrap());
                let left = (SystemTime::UNIX_EPOCH + time).duration_since(SystemTime::now());
                thread::sleep(left.unwrap_or_default());
            }
            ("take", _) => {
                let (generation, _) = opened.as_ref().unwrap();
                if generation.take_over_blocking(PATIENCE).is_err() {
                    process::exit(9);
                }
            }
            ("begin", _) => {
                let (generation, _) = opened.as_ref().unwrap();
                drop(generation.take_over(PATIENCE));
            }
            ("share", part) => {
                let (generation, _) = opened.as_ref().unwrap();
                let part = part.parse().unwrap();
                assert_eq!(generation.take_share_blocking(part).unwrap(), part);
            }
            ("abort", _) => process::abort(),
            ("exit", code) => process::exit(code.parse().unwrap()),
            ("hang", _) => loop {
                thread::park();
            },
            ("serve", _) => {
                let (generation, worker) = opened.take().unwrap();
                generation.relieved_blocking();
                over.store(true, Ordering::SeqCst);
                worker.end();
                process::exit(0);
            }
            ("sockets", _) => {
                let links = fs::read_dir("/proc/self/fd").unwrap().map(Result::unwrap);
                let links = links.filter(|link| link.file_name().to_str() > Some("0"));
                let links = links.filter_map(|link| fs::read_link(link.path()).ok());
                let sockets = links.filter(|link| link.to_string_lossy().starts_with("socket:"));
                // Two are copies of its standard input, made above.
                process::exit(sockets.count() as i32 - 2);
            }
            (word, _) => panic!("{word}?"),
        }
    }
}

/// A command that does that, and the line to it; the process ends when the line is dropped.
fn command(words: &str) -> (Command, UnixStream) {
    let mut command = Command::new(env::current_exe().unwrap());
    let line = prepare(&mut command, words);
    (command, line)
}

fn prepare(command: &mut Command, words: &str) -> UnixStream {
    let (here, there) = UnixStream::pair().unwrap();
    command
        .args(["--exact", "next", "--nocapture", "--test-threads=1"])
        .env(NEXT, words)
        .stdin(OwnedFd::from(there))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    here.set_read_timeout(Some(PATIENCE)).unwrap();
    here
}

fn heard(line: &mut UnixStream) -> u32 {
    let mut pid = [0; 4];
    line.read_exact(&mut pid).unwrap();
    u32::from_ne_bytes(pid)
}

/// One connection's answer.
fn ask() -> io::Result<u8> {
    let mut stream = TcpStream::connect_timeout(&ADDR, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[WHO])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

/// Clients that ask one after the other, each on a new connection, until they are told to stop or one fails.
struct Clients {
    answered: Arc<AtomicUsize>,
    stops: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Clients {
    fn start() -> Self {
        let (answered, stops) = <(Arc<AtomicUsize>, Arc<AtomicBool>)>::default();
        let threads = (0..3).map(|_| {
            let (answered, stops) = (answered.clone(), stops.clone());
            thread::spawn(move || {
                while !stops.load(Ordering::SeqCst) {
                    ask()?;
                    answered.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            })
        });
        let threads = threads.collect();
        Self {
            answered,
            stops,
            threads,
        }
    }

    /// Waits until so many more have been answered.
    #[track_caller]
    fn go_on(&self, n: usize) {
        let before = self.answered.load(Ordering::SeqCst);
        util::until(|| (self.answered.load(Ordering::SeqCst) >= before + n).then_some(()));
    }

    /// How each of them has ended.
    fn end(self) -> Vec<io::Result<()>> {
        self.stops.store(true, Ordering::SeqCst);
        let threads = self.threads.into_iter();
        threads.map(|thread| thread.join().unwrap()).collect()
    }

    #[track_caller]
    fn assert_nothing_lost(self) {
        self.go_on(20);
        self.end().into_iter().for_each(Result::unwrap);
    }
}

/// This process's server.
struct Old {
    generation: Generation,
    worker: Worker,
    over: Arc<AtomicBool>,
}

impl Old {
    fn start() -> Self {
        let (listener, generation) = open();
        assert_drained(generation.take_over_blocking(PATIENCE));
        let over = Arc::new(AtomicBool::new(false));
        let worker = Worker::start_until(listener, OLD, over.clone());
        Self {
            generation,
            worker,
            over,
        }
    }

    fn restart(&self, words: &str) -> (Restart, UnixStream) {
        let (command, line) = command(words);
        (self.generation.restart(command).timeout(LONG), line)
    }

    /// It goes on.
    #[track_caller]
    fn serves(&self) {
        assert_eq!(ask().unwrap(), OLD);
        assert!(!self.generation.is_relieved() && !self.generation.farewell().is_ending());
        assert_eq!(self.generation.successor_pid(), None);
    }

    /// Another process has taken over.
    fn relieved(self) {
        self.generation.relieved_blocking();
        self.over.store(true, Ordering::SeqCst);
        self.worker.end();
    }
}

fn open() -> (TcpListener, Generation) {
    let (group, generation) = Options::new().generation(ADDR, 1).unwrap();
    (group.into_iter().next().unwrap().into_std(), generation)
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Whether this process has a child, alive or not.
fn has_child() -> bool {
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a null pointer asks for no details (waitid(2)).
    let waited = unsafe { libc::waitid(libc::P_ALL, 0, ptr::null_mut(), how) };
    waited == 0
}

/// The words behind the address, without what differs each time.
#[track_caller]
fn why(error: &Error) -> String {
    let text = error.to_string();
    assert_eq!(error.addr(), Some(ADDR), "{text}");
    let why = text.strip_prefix("cannot restart the server on 127.0.0.1:4000: ");
    let why = why.unwrap_or_else(|| panic!("{text}"));
    let exe = env::current_exe().unwrap();
    why.replace(exe.to_str().unwrap(), "EXE")
}

mod alone {
    use super::*;

    pub(super) fn a_child_takes_over() {
        for blocks in [false, true] {
            let old = Old::start();
            let clients = Clients::start();
            clients.go_on(20);
            let (restart, mut line) = old.restart("open say take serve");
            let successor = match blocks {
                true => restart.wait().unwrap(),
                false => block_on(restart).unwrap(),
            };
            let pid = heard(&mut line);
            assert_eq!(successor.pid(), pid);
            assert_eq!(old.generation.successor_pid(), Some(pid));
            assert!(old.generation.is_relieved());
            assert_eq!(ask().unwrap(), NEW);
            let mut ended = successor.ended();
            assert!(block_on(poll_once(&mut ended)).is_none());
            let error = block_on(old.restart("exit=0").0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            let text = format!("process {pid} has already taken over");
            assert_eq!(why(&error), text);
            old.relieved();
            clients.go_on(20);
            clients.assert_nothing_lost();
            drop(line);
            let status = match blocks {
                true => successor.ended_blocking().unwrap(),
                false => block_on(ended.clone()).unwrap(),
            };
            assert!(status.success(), "{status}");
            assert!(block_on(ended).unwrap().success());
            assert!(!has_child());
        }
    }

    pub(super) fn a_child_that_ends_is_told() {
        let old = Old::start();
        for (words, how) in [
            ("exit=3", "exit status: 3"),
            ("exit=0", "exit status: 0"),
            ("abort", "signal: 6 (SIGABRT)"),
            ("open exit=4", "exit status: 4"),
            ("open abort", "signal: 6 (SIGABRT)"),
        ] {
            let error = block_on(old.restart(&format!("say {words}")).0).unwrap_err();
            // The line was dropped, and may have ended it before.
            assert_eq!(error.kind(), ErrorKind::Other);
            let (restart, mut line) = old.restart(&format!("say {words}"));
            let error = block_on(restart).unwrap_err();
            let pid = heard(&mut line);
            assert_eq!(error.kind(), ErrorKind::Other);
            let text = format!("process {pid} (EXE) ended before it had taken over: ");
            let text = why(&error).strip_prefix(&text).unwrap().to_owned();
            assert!(text.starts_with(how), "{text}");
            assert!(!is_there(pid));
            old.serves();
        }
    }

    pub(super) fn what_is_no_program_is_told() {
        let old = Old::start();
        let (_, line) = command("");
        drop(line);
        let file = env::temp_dir().join(format!("reuseport-{}", process::id()));
        fs::write(&file, "this is no program").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&file, mode).unwrap();
        for (program, code) in [
            (Path::new("/nowhere/server"), libc::ENOENT),
            (Path::new("/"), libc::EACCES),
            (&file, libc::ENOEXEC),
        ] {
            let error = old.generation.restart(Command::new(program)).wait();
            let error = error.unwrap_err();
            assert_eq!(error.io_error().raw_os_error(), Some(code), "{error}");
            let system = io::Error::from_raw_os_error(code);
            let text = format!("{} cannot be started: {system}", program.display());
            assert_eq!(why(&error), text);
            old.serves();
        }
        fs::remove_file(&file).unwrap();
        assert!(!has_child());
    }

    pub(super) fn a_child_that_hangs_is_killed() {
        let old = Old::start();
        let clients = Clients::start();
        for words in ["say hang", "open say hang", "open say hang"] {
            let (restart, mut line) = old.restart(words);
            // When it is there, it has no time left.
            let pid = heard(&mut line);
            let restart = restart.timeout(Duration::from_millis(1));
            let error = block_on(restart).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            let text = format!(
                "process {pid} (EXE) was killed, because it hung: it had not begun to take over within 1ms"
            );
            assert_eq!(why(&error), text);
            assert!(!is_there(pid));
            old.serves();
        }
        let (restart, line) = old.restart("open take serve");
        block_on(restart).unwrap();
        old.relieved();
        clients.go_on(20);
        clients.assert_nothing_lost();
        drop(line);
    }

    pub(super) fn one_is_started_at_a_time() {
        let old = Old::start();
        let (restart, mut line) = old.restart("say wait open take serve");
        let pid = heard(&mut line);
        for _ in 0..3 {
            let error = old.restart("exit=0").0.wait().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ResourceBusy);
            // Its number may not have been heard yet by this process.
            let text = why(&error).replace(&format!("process {pid} (EXE)"), "EXE");
            assert_eq!(text, "EXE is already on its way");
        }
        line.write_all(&[0]).unwrap();
        assert_eq!(block_on(restart).unwrap().pid(), pid);
        old.relieved();
        // Many at once: of them one is.
        let old = Old::start();
        let generation = &old.generation;
        let begun: Vec<_> = thread::scope(|scope| {
            let threads = (0..8).map(|_| {
                scope.spawn(|| {
                    let (command, line) = command("open take serve");
                    (generation.restart(command).timeout(LONG).wait(), line)
                })
            });
            let threads: Vec<_> = threads.collect();
            threads.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(begun.iter().filter(|(begun, _)| begun.is_ok()).count(), 1);
        old.relieved();
        assert_eq!(ask().unwrap(), NEW);
    }

    pub(super) fn at_the_very_timeout_one_serves() {
        const ROUNDS: u64 = 30;
        const TIMEOUT: Duration = Duration::from_millis(300);
        let mut old = Old::start();
        let clients = Clients::start();
        let (mut served, mut hung) = (0, 0);
        for round in 0..ROUNDS {
            clients.go_on(10);
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            // From two milliseconds before to four after.
            let at = now.unwrap() + TIMEOUT + Duration::from_micros(6000 * round / ROUNDS)
                - Duration::from_millis(2);
            let (command, mut line) = command(&format!("open say at={} take serve", at.as_nanos()));
            let restart = old.generation.restart(command).timeout(TIMEOUT);
            let done = block_on(restart);
            match done {
                Ok(successor) => {
                    let pid = heard(&mut line);
                    assert_eq!(successor.pid(), pid);
                    assert_eq!(ask().unwrap(), NEW);
                    old.relieved();
                    assert!(is_there(pid));
                    old = Old::start();
                    assert!(successor.ended_blocking().unwrap().success());
                    served += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
                    old.serves();
                    hung += 1;
                }
            }
            assert!(!has_child());
        }
        clients.assert_nothing_lost();
        println!("measured: at the timeout {served} took over, and {hung} were killed");
    }

    pub(super) fn a_child_that_dies_in_its_takeover_is_told() {
        let mut old = Old::start();
        for _ in 0..30 {
            let (restart, mut line) = old.restart("open say begin abort");
            let done = block_on(restart);
            let pid = heard(&mut line);
            match done {
                // It was quick.
                Ok(successor) => {
                    assert_eq!(successor.pid(), pid);
                    assert_eq!(successor.ended_blocking().unwrap().code(), None);
                    old.relieved();
                    old = Old::start();
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Other, "{error}");
                    old.serves();
                }
            }
            assert!(!is_there(pid));
        }
    }

    pub(super) fn what_is_dropped_goes_on() {
        let old = Old::start();
        let (restart, mut line) = old.restart("say hang");
        drop(restart.timeout(Duration::from_millis(1)));
        drop(line.read(&mut [0; 4]));
        util::until(|| (!has_child()).then_some(()));
        old.serves();
        // The generation is kept too.
        let mut line = util::until(|| {
            let (mut restart, line) = old.restart("open say wait take serve");
            // The one before has ended, and this process may not have noted it yet.
            match block_on(poll_once(&mut restart)) {
                None => Some(line),
                Some(refused) => {
                    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ResourceBusy);
                    None
                }
            }
        });
        let pid = heard(&mut line);
        let relieved = old.generation.relieved();
        drop(old.generation);
        line.write_all(&[0]).unwrap();
        block_on(relieved);
        old.over.store(true, Ordering::SeqCst);
        old.worker.end();
        assert_eq!(ask().unwrap(), NEW);
        assert!(is_there(pid));
        drop(line);
        util::until(|| (!has_child()).then_some(()));
    }

    pub(super) fn another_process_may_take_over_meanwhile() {
        let old = Old::start();
        let clients = Clients::start();
        let (restart, mut line) = old.restart("say wait open take serve");
        let (pid, me) = (heard(&mut line), process::id());
        let other = Old::start();
        let error = block_on(restart).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        let text =
            format!("process {me} has taken over, and process {pid} (EXE) goes on by itself");
        assert_eq!(why(&error), text);
        assert_eq!(old.generation.successor_pid(), Some(me));
        old.relieved();
        other.serves();
        line.write_all(&[0]).unwrap();
        other.relieved();
        clients.go_on(20);
        assert_eq!(ask().unwrap(), NEW);
        clients.assert_nothing_lost();
        drop(line);
        util::until(|| (!has_child()).then_some(()));
    }

    pub(super) fn a_server_that_stops_ends_what_it_has_started() {
        for words in ["say hang", "open say hang"] {
            let old = Old::start();
            let clients = Clients::start();
            let (restart, mut line) = old.restart(words);
            let pid = heard(&mut line);
            clients.go_on(20);
            old.generation.stop();
            let error = block_on(restart).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            assert_eq!(why(&error), "this process has been told to stop");
            assert!(!is_there(pid));
            let error = old.restart("exit=0").0.wait().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            let outcome = old.generation.clone();
            old.relieved();
            assert_drained(outcome.outcome());
            // Each goes on until it is refused.
            for ended in clients.threads {
                let error = ended.join().unwrap().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            }
        }
    }

    pub(super) fn a_takeover_that_has_begun_goes_on_after_stop() {
        let (listener, generation) = open();
        assert_drained(generation.take_over_blocking(PATIENCE));
        // As long as this waits in the queue, the takeover is not over.
        let mut client = TcpStream::connect(ADDR).unwrap();
        let (command, line) = command("open take serve");
        let restart = generation.restart(command).timeout(LONG);
        let farewell = generation.farewell();
        util::until(|| farewell.is_ending().then_some(()));
        generation.stop();
        let mut accepted = listener.accept().unwrap().0;
        drop(restart.timeout(Duration::from_millis(1)).wait().unwrap());
        accepted.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
        drop(listener);
        assert_eq!(ask().unwrap(), NEW);
        drop(line);
    }

    pub(super) fn a_child_that_is_tried_has_no_time_limit() {
        let old = Old::start();
        let clients = Clients::start();
        let (restart, mut line) = old.restart("open share=0.5 say wait take serve");
        let pid = heard(&mut line);
        // It has had a part by now, and is not killed.
        let mut restart = restart.timeout(Duration::from_millis(1));
        for _ in 0..5 {
            clients.go_on(50);
            assert!(block_on(poll_once(&mut restart)).is_none());
        }
        line.write_all(&[0]).unwrap();
        assert_eq!(block_on(restart).unwrap().pid(), pid);
        old.relieved();
        clients.go_on(20);
        clients.assert_nothing_lost();
        drop(line);
    }

    pub(super) fn a_child_that_is_tried_goes_on_after_stop() {
        let old = Old::start();
        let clients = Clients::start();
        let (restart, mut line) = old.restart("open share=0.5 say wait take serve");
        heard(&mut line);
        clients.go_on(20);
        old.generation.stop();
        let error = block_on(restart).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        // It has what is new already.
        old.relieved();
        clients.go_on(20);
        assert_eq!(ask().unwrap(), NEW);
        clients.assert_nothing_lost();
        drop(line);
    }

    pub(super) fn nothing_is_left_behind() {
        let old = Old::start();
        let all = || {
            let (failing, line) = command("exit=1");
            drop(block_on(old.generation.restart(failing)).unwrap_err());
            drop(line);
            let (restart, line) = old.restart("open hang");
            let restart = restart.timeout(Duration::from_millis(1));
            drop(restart.wait().unwrap_err());
            drop(line);
            let missing = Command::new("/nowhere/server");
            drop(old.generation.restart(missing).wait().unwrap_err());
            let (mut piped, line) = command("exit=1");
            piped.stdout(Stdio::piped()).stderr(Stdio::piped());
            drop(old.generation.restart(piped).wait().unwrap_err());
            drop(line);
        };
        all();
        let before = util::descriptors();
        (0..5).for_each(|_| all());
        assert!(!has_child());
        util::until(|| (util::descriptors() <= before).then_some(()));
        // The threads that have waited.
        util::until(|| {
            let tasks = fs::read_dir("/proc/self/task").unwrap();
            let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
            let mut names = names.filter_map(Result::ok);
            names
                .all(|name| name.trim() != "reuseport-next")
                .then_some(())
        });
        old.serves();
    }

    pub(super) fn a_child_inherits_no_socket() {
        let old = Old::start();
        let _client = TcpStream::connect(ADDR).unwrap();
        let (restart, line) = old.restart("sockets");
        let error = block_on(restart).unwrap_err().to_string();
        assert!(error.ends_with(": exit status: 0"), "{error}");
        drop(line);
    }

    pub(super) fn other_children_are_left_alone() {
        let old = Old::start();
        let mut other = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let (restart, line) = old.restart("open take serve");
        let successor = block_on(restart).unwrap();
        assert_eq!(other.wait().unwrap().code(), Some(7));
        old.relieved();
        // Another part of the program waits for whatever ends.
        let any = thread::spawn(|| {
            // SAFETY: a null pointer asks for no status.
            unsafe { libc::waitpid(-1, ptr::null_mut(), 0) }
        });
        drop(line);
        match successor.ended_blocking() {
            Ok(status) => assert!(status.success()),
            Err(error) => {
                let pid = successor.pid();
                let text = format!("cannot tell how process {pid} (");
                assert!(error.to_string().starts_with(&text), "{error}");
                assert_eq!(error.io_error().raw_os_error(), Some(libc::ECHILD));
            }
        }
        any.join().unwrap();
        assert!(!has_child());
    }

    fn script(words: &str) -> (Command, UnixStream) {
        let mut command = Command::new("sh");
        command.args(["-c", "\"$0\" \"$@\"; exit 5"]);
        command.arg(env::current_exe().unwrap());
        let line = prepare(&mut command, words);
        (command, line)
    }

    pub(super) fn a_script_may_stand_above_the_server() {
        let old = Old::start();
        let (command, mut line) = script("open say hang");
        let restart = old.generation.restart(command).timeout(LONG);
        let pid = heard(&mut line);
        let error = restart.timeout(Duration::from_millis(1)).wait();
        assert_eq!(error.unwrap_err().kind(), ErrorKind::TimedOut);
        // It is not killed, and is no successor any more.
        assert!(is_there(pid));
        old.serves();
        drop(line);

        let (command, mut line) = script("open say take serve");
        let successor: Successor = block_on(old.generation.restart(command).timeout(LONG)).unwrap();
        assert_eq!(successor.pid(), heard(&mut line));
        assert_eq!(ask().unwrap(), NEW);
        old.relieved();
        drop(line);
        assert_eq!(successor.ended_blocking().unwrap().code(), Some(5));
    }

    pub(super) fn who_does_not_serve_starts_nothing() {
        let first = Old::start();
        let (listener, beside) = open();
        let error = beside.restart(command("exit=0").0).wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(why(&error), "this process has not taken over itself");
        drop((listener, beside));
        first.generation.stop();
        let generation = first.generation.clone();
        first.relieved();
        let error = generation.restart(command("exit=0").0).wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        assert_eq!(why(&error), "this process serves no more");
        assert!(!has_child());
    }

    pub(super) fn a_fork_has_no_such_child() {
        let old = Old::start();
        let (restart, mut line) = old.restart("say wait exit=3");
        heard(&mut line);
        // SAFETY: the child asks for what is decided without a lock of another thread, and ends.
        match unsafe { libc::fork() } {
            0 => {
                let is_refused = restart.wait().is_err();
                // SAFETY: it takes a number, and ends the process.
                unsafe { libc::_exit(i32::from(!is_refused)) };
            }
            pid => {
                let mut status = 0;
                // SAFETY: the pointer is to room for the status.
                let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
                assert_eq!((waited, status), (pid, 0));
            }
        }
        line.write_all(&[0]).unwrap();
        let error = block_on(restart).unwrap_err().to_string();
        assert!(error.ends_with("exit status: 3"), "{error}");
        old.serves();
    }
}

/// The program is found again after a change of the directory, and by a path that is relative to the first.
#[test]
fn the_program_is_found_again() {
    const TEST: &str = "the_program_is_found_again";
    if !is_child(TEST) {
        let exe = env::current_exe().unwrap();
        let name = Path::new(".").join(exe.file_name().unwrap());
        let mut command = Command::new(name);
        command
            .args(["--exact", TEST, "--nocapture"])
            .current_dir(exe.parent().unwrap())
            .env("REUSEPORT_TEST_CHILD", TEST);
        assert!(util::spawn(&mut command).unwrap().wait().unwrap().success());
        return util::in_child(TEST);
    }
    let program = Program::current().unwrap();
    assert_eq!(
        fs::canonicalize(program.path()).unwrap(),
        fs::canonicalize(env::current_exe().unwrap()).unwrap()
    );
    assert!(program.path().is_absolute());
    let here = env::current_dir().unwrap();
    let command = program.command();
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    assert_eq!(args, env::args_os().skip(1).collect::<Vec<_>>());
    assert_eq!(command.get_current_dir(), None);
    env::set_current_dir("/").unwrap();
    let command = program.command();
    assert_eq!(command.get_program(), program.path());
    assert_eq!(command.get_current_dir(), Some(&*here));
}
