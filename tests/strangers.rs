//! What is no process of the server, or another user's, cannot keep a restart from its usual time.

#![cfg(target_os = "linux")]

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

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use engine::PATIENCE;
use process::Process;
use rendezvous::{addr_of, connect, fill, names, send_with, unix};
use socket2::{Domain, SockRef, Socket, Type};
use traffic::{ADDR, assert_all_answered};
use util::{as_user, in_namespace};

/// Another user than the servers'.
const OTHER: u32 = 65_534;

/// Many times what a start takes on a busy machine.
const SOON: Duration = Duration::from_secs(12);

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    process::obey();
}

fn group() -> String {
    format!("tcp {ADDR} 2")
}

/// Starts the next process, which serves soon.
#[track_caller]
fn starts_soon(tag: u8) -> Process {
    let begin = Instant::now();
    let mut new = Process::start();
    new.tell(&format!("open {}", group()));
    new.opened(SOON).unwrap();
    new.ask(&format!("serve {tag}"));
    assert_eq!(new.take_over(PATIENCE).unwrap(), 0);
    let took = begin.elapsed();
    assert!(took < SOON, "the start took {took:?}");
    new
}

/// Where the processes of this namespace meet, as one that has ended did.
fn names_before() -> Vec<Vec<u8>> {
    let server = Process::serving(&group(), 0);
    let names = names();
    server.kill();
    assert_eq!(names.len(), 1, "{names:?}");
    names
}

/// Takes what a process would listen at, before it comes.
fn squat<T: Send>(what: &str, squat: impl Fn(&[u8]) -> T + Sync) {
    in_namespace(what, || {
        let names = names_before();
        let squatted = as_user(OTHER, what, || {
            names.iter().map(|name| squat(name)).collect::<Vec<_>>()
        });
        if squatted.is_none() {
            return;
        }
        let old = starts_soon(1);
        let new = starts_soon(2);
        old.ends();
        assert_all_answered(ADDR, 2);
        drop(new);
    });
}

#[test]
fn another_user_has_bound_the_name() {
    squat("a name that is bound", |name| {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&unix(name)).unwrap();
        socket
    });
}

#[test]
fn another_user_listens_at_the_name() {
    squat("a name at which another listens", |name| {
        UnixListener::bind_addr(&addr_of(name)).unwrap()
    });
}

#[test]
fn another_user_listens_at_the_name_and_takes_nobody_more() {
    squat("a name at which a queue is full", |name| {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&unix(name)).unwrap();
        socket.listen(0).unwrap();
        let clients = fill(name, 10);
        (socket, clients)
    });
}

#[test]
fn another_user_fills_the_queue() {
    in_namespace("a queue that another user fills", || {
        server::limit(rustix::process::Resource::Nofile, 8_000);
        let old = Process::serving(&group(), 1);
        let names = names();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let filling = scope.spawn(|| {
                as_user(OTHER, "a queue that another user fills", || {
                    let mut clients = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        clients.extend(names.iter().flat_map(|name| fill(name, 100)));
                        // What is refused has ended.
                        if clients.len() > 5_000 {
                            clients.drain(..1_000);
                        }
                        thread::yield_now();
                    }
                })
            });
            let backlog = || fill(&names[0], 1).is_empty();
            let until = Instant::now() + Duration::from_secs(1);
            while !backlog() && Instant::now() < until {
                thread::yield_now();
            }
            let new = std::panic::catch_unwind(|| starts_soon(2));
            stop.store(true, Ordering::Relaxed);
            filling.join().unwrap();
            let _new = new.unwrap();
            old.ends();
            assert_all_answered(ADDR, 2);
        });
    });
}

/// The close of such a socket waits until its peer has read all, or for as long as was asked.
#[test]
fn another_user_sends_a_socket_whose_close_takes_long() {
    in_namespace("a socket whose close takes long", || {
        let old = Process::serving(&group(), 1);
        let names = names();
        let sent = as_user(OTHER, "a socket whose close takes long", || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (reader, _) = listener.accept().unwrap();
            client.set_nonblocking(true).unwrap();
            while client.write(&[0; 4096]).is_ok() {}
            // Only a socket in blocking mode waits (kernel: tcp_close).
            client.set_nonblocking(false).unwrap();
            SockRef::from(&client)
                .set_linger(Some(Duration::from_secs(8)))
                .unwrap();
            // Others first, so that this one's own copy is closed when it is received.
            let before: Vec<_> = (0..50).flat_map(|_| fill(&names[0], 1)).collect();
            let stream = connect(&names[0]).unwrap();
            // Since Linux 6.16 a socket can refuse what others put into it (SO_PASSRIGHTS).
            // And a server that is quick has hung up by now.
            if let Err(error) = send_with(&stream, b"x", &client) {
                use std::io::ErrorKind::{BrokenPipe, PermissionDenied};
                let kind = error.kind();
                assert!([PermissionDenied, BrokenPipe].contains(&kind), "{error}");
            }
            drop_in_background(client);
            (reader, before, stream)
        });
        let Some(_sent) = sent else {
            return;
        };
        let _new = starts_soon(2);
        old.ends();
        assert_all_answered(ADDR, 2);
    });
}

/// Where it is the last copy after all, the close takes long here.
fn drop_in_background(client: TcpStream) {
    thread::spawn(move || drop(client));
}

/// What the server says to whoever connects and says that.
fn answer(to: &[u8], says: &[u8]) -> Vec<u8> {
    let mut stream = connect(to).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(says).unwrap();
    let mut answer = Vec::new();
    // It hangs up after that, perhaps with a reset.
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// After a mere hang-up the other side would ask again.
#[test]
fn whoever_is_refused_is_told_so() {
    in_namespace("peers that are refused", || {
        let old = Process::serving(&group(), 1);
        let name = names().remove(0);
        let [of_another_version, _] = engine::of_another_version();
        let garbage = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
        let mut silent = Vec::new();
        for (what, says) in [
            ("another version", of_another_version),
            ("garbage", garbage),
            ("no word of any version", engine::frame(b"something else")),
        ] {
            if answer(&name, &says).is_empty() {
                silent.push(what.to_owned());
            }
        }
        let other = as_user(OTHER, "a peer that is another user", || answer(&name, b""));
        if other.is_some_and(|answer| answer.is_empty()) {
            silent.push("another user".to_owned());
        }
        assert!(silent.is_empty(), "nothing was said to {silent:?}");
        let _new = starts_soon(2);
        old.ends();
    });
}

/// A process of the same user that listens there, and is no server of this version.
fn against(serve: impl Fn(UnixStream) + Sync, patience: Duration) -> (Option<String>, usize) {
    in_namespace("a peer that is no server", || {
        let name = names_before().remove(0);
        let listener = UnixListener::bind_addr(&addr_of(&name)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let said = thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            count.fetch_add(1, Ordering::Relaxed);
                            stream.set_nonblocking(false).unwrap();
                            serve(stream);
                        }
                        Err(_) => thread::yield_now(),
                    }
                }
            });
            let mut new = Process::start();
            new.tell(&format!("open {}", group()));
            let said = new.hear_within("open", patience);
            stop.store(true, Ordering::Relaxed);
            said
        });
        (said, count.into_inner())
    })
    .unwrap_or((Some(String::new()), 1))
}

#[test]
fn who_is_hung_up_on_does_not_ask_without_a_pause() {
    let (said, count) = against(drop, Duration::from_secs(2));
    assert!(count <= 100, "{count} connections in 2 seconds: {said:?}");
}

#[test]
fn a_predecessor_of_another_version_is_named_at_once() {
    let [_, answer] = engine::of_another_version();
    let (said, count) = against(
        |mut stream| {
            stream.write_all(&answer).unwrap();
            let _ = stream.read(&mut [0; 64]);
        },
        SOON,
    );
    let said = said.unwrap();
    if !said.is_empty() {
        assert!(said.starts_with("error"), "{said}");
        assert!(said.contains("version 9"), "{said}");
    }
    assert_eq!(count, 1);
}

#[test]
fn a_server_of_another_user_is_named_at_once() {
    in_namespace("a server of another user", || {
        let old = Process::serving(&group(), 1);
        let mut new = Process::start_as(OTHER);
        new.tell(&format!("open {}", group()));
        let refused = new.opened(SOON).unwrap_err();
        assert!(refused.text.contains("user 0"), "{refused:?}");
        assert_all_answered(ADDR, 1);
        drop(old);
    });
}
