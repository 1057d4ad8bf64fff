//! Members that leave, and a generation that is relieved, behind axum's graceful shutdown.

#![cfg(target_os = "linux")]

#[path = "../../tests/util/mod.rs"]
mod util;

#[path = "../../examples/graceful/mod.rs"]
mod graceful;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::thread::{self, JoinHandle};

use axum::{Router, routing::get};
use reuseport::{Drained, Guarantee, Leaving, Member, Options, Tokio};
use tokio::sync::{oneshot, watch};
use util::{PATIENCE, assert_drained, in_child, is_child, until};

/// What axum and the crate have said at level ERROR, in all of this process.
static ERRORS: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Collect;

impl Write for Collect {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ERRORS.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn collect_errors() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::ERROR)
            .with_ansi(false)
            .with_writer(|| Collect)
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

fn errors() -> String {
    String::from_utf8(ERRORS.lock().unwrap().clone()).unwrap()
}

/// How axum is told to end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// By `with_graceful_shutdown`, as it is.
    Plain,
    /// As the examples do.
    AcceptingFirst,
}

/// What the slow requests wait for, and how many do.
#[derive(Clone)]
struct Gate {
    opened: watch::Sender<bool>,
    waiting: Arc<AtomicUsize>,
}

impl Gate {
    fn new() -> Self {
        Self {
            opened: watch::Sender::new(false),
            waiting: Arc::default(),
        }
    }

    async fn pass(self, who: &'static str) -> &'static str {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.opened
            .subscribe()
            .wait_for(|opened| *opened)
            .await
            .unwrap();
        who
    }
}

/// A worker on a thread of its own, which ends when `left` says so and its connections have ended.
fn work(
    member: Member<TcpListener>,
    who: &'static str,
    gate: &Gate,
    how: How,
    left: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let gate = gate.clone();
    let app = Router::new()
        .route("/", get(move || async move { who }))
        .route("/slow", get(move || gate.clone().pass(who)));
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = member.attach::<Tokio>().unwrap();
            match how {
                How::Plain => {
                    axum::serve(listener, app)
                        .with_graceful_shutdown(left)
                        .await
                }
                How::AcceptingFirst => graceful::serve(listener, app, left).await,
            }
            .unwrap();
        });
    })
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn send(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
}

/// The head and the body of one answer; the connection may stay open.
fn answer(stream: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn assert_end(stream: &mut TcpStream, what: &str) {
    let end = stream.read(&mut [0]).map_err(|error| error.to_string());
    assert_eq!(end, Ok(0), "{what}");
}

/// Connections that have asked once, by who answered.
struct Clients {
    idle: Vec<(TcpStream, String)>,
    slow: Vec<(TcpStream, String)>,
}

impl Clients {
    fn open(addr: SocketAddr, gate: &Gate) -> Self {
        let (mut idle, mut slow) = (Vec::new(), Vec::new());
        for i in 0..64 {
            let mut stream = connect(addr);
            send(&mut stream, "/");
            let (head, who) = answer(&mut stream);
            assert!(!head.contains("connection: close"), "{head}");
            if i % 2 == 0 {
                idle.push((stream, who));
            } else {
                send(&mut stream, "/slow");
                slow.push((stream, who));
            }
        }
        until(|| (gate.waiting.load(Ordering::Relaxed) == 32).then_some(()));
        Self { idle, slow }
    }

    /// Those of who has left end well, after what they have asked is answered; others live on.
    fn check(self, gate: &Gate, how: How, has_left: impl Fn(&str) -> bool) {
        let of_left = |streams: &[(TcpStream, String)]| {
            streams.iter().filter(|(_, who)| has_left(who)).count()
        };
        assert!(of_left(&self.idle) > 0 && of_left(&self.slow) > 0);
        for (mut stream, who) in self.idle {
            if has_left(&who) {
                assert_end(&mut stream, "an idle connection");
            } else {
                send(&mut stream, "/");
                assert_eq!(answer(&mut stream).1, who);
            }
        }
        gate.opened.send_replace(true);
        for (mut stream, who) in self.slow {
            let (head, body) = answer(&mut stream);
            assert_eq!(body, who);
            let is_last = head.contains("connection: close");
            // axum alone may have answered before it has told this connection that it is to end.
            if how == How::AcceptingFirst || !has_left(&who) {
                assert_eq!(is_last, has_left(&who), "{head}");
            }
            if has_left(&who) {
                assert_end(&mut stream, "a connection that waited");
            }
        }
    }
}

/// Requests, each on a new connection, until it is ended; it returns how many there were.
struct Load(Arc<AtomicBool>, Vec<JoinHandle<usize>>);

impl Load {
    /// hyper hangs up on who has connected and not been heard when the shutdown begins, so that
    /// there is no load where accepting does not end first.
    fn start(addr: SocketAddr, how: How) -> Self {
        let stop = Arc::new(AtomicBool::new(how == How::Plain));
        let one = || {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = connect(addr);
                    send(&mut stream, "/");
                    answer(&mut stream);
                    n += 1;
                }
                n
            })
        };
        let threads = vec![one(), one(), one()];
        Self(stop, threads)
    }

    fn end(self) -> usize {
        self.0.store(true, Ordering::Relaxed);
        self.1
            .into_iter()
            .map(|thread| thread.join().expect("none is lost"))
            .sum()
    }
}

fn member_leaves(how: How) {
    collect_errors();
    let gate = Gate::new();
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let (addr, roster) = (group.local_addr(), group.roster());
    let mut members = group.into_iter();
    let (leave, left) = oneshot::channel::<Leaving>();
    let (tell, told) = oneshot::channel();
    let left = async {
        let drained = left.await.unwrap().await;
        tell.send(drained.unwrap()).unwrap();
    };
    let first = work(members.next().unwrap(), "first", &gate, how, left);
    work(
        members.next().unwrap(),
        "second",
        &gate,
        how,
        std::future::pending(),
    );

    let clients = Clients::open(addr, &gate);
    let load = Load::start(addr, how);
    let leaving = roster.leave(0).unwrap();
    assert_eq!(leaving.guarantee(), Guarantee::Lossless);
    leave.send(leaving.timeout(PATIENCE)).unwrap();
    assert_eq!(told.blocking_recv(), Ok(Drained::default()));
    clients.check(&gate, how, |who| who == "first");
    first.join().unwrap();

    for _ in 0..20 {
        let mut stream = connect(addr);
        send(&mut stream, "/");
        assert_eq!(answer(&mut stream).1, "second");
    }
    assert_eq!(load.end() > 0, how == How::AcceptingFirst);
    assert_eq!(errors(), "");
}

#[test]
fn a_member_leaves_with_axum_alone() {
    member_leaves(How::Plain);
}

#[test]
fn a_member_leaves_under_load() {
    member_leaves(How::AcceptingFirst);
}

fn generation_is_relieved(how: How) {
    collect_errors();
    let addr = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let gate = Gate::new();
    let start = |who| {
        let (group, generation) = Options::new().generation(addr, 2).unwrap();
        let work = |member| work(member, who, &gate, how, generation.relieved());
        let workers: Vec<_> = group.into_iter().map(work).collect();
        assert_drained(generation.take_over_blocking(PATIENCE));
        (workers, generation)
    };
    let (workers, old) = start("old");
    let clients = Clients::open(addr, &gate);
    let load = Load::start(addr, how);
    let (_, new) = start("new");
    old.relieved_blocking();
    let predecessor = new.predecessor().unwrap();
    assert_eq!(predecessor.pid(), Some(std::process::id()));
    clients.check(&gate, how, |who| who == "old");
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());

    for _ in 0..20 {
        let mut stream = connect(addr);
        send(&mut stream, "/");
        assert_eq!(answer(&mut stream).1, "new");
    }
    assert_eq!(load.end() > 0, how == How::AcceptingFirst);
    assert_eq!(errors(), "");
}

#[test]
fn a_generation_is_relieved_with_axum_alone() {
    generation_is_relieved(How::Plain);
}

#[test]
fn a_generation_is_relieved_under_load() {
    generation_is_relieved(How::AcceptingFirst);
}

/// The other tests would see an error of axum.
#[test]
fn a_listener_that_fails_is_an_error_of_axum() {
    const NAME: &str = "a_listener_that_fails_is_an_error_of_axum";
    if !is_child(NAME) {
        return in_child(NAME);
    }
    collect_errors();
    let group = Options::new().group("127.0.0.1:0", 1).unwrap();
    let member = group.into_iter().next().unwrap();
    let copy = socket2::Socket::from(member.as_fd().try_clone_to_owned().unwrap());
    let worker = work(member, "", &Gate::new(), How::Plain, std::future::pending());
    // accept(2) of a listener that is shut down fails.
    copy.shutdown(Shutdown::Both).unwrap();
    until(|| errors().contains("accept error").then_some(()));
    assert!(!worker.is_finished());
}
