//! Deadlines, tasks and both directions at once, on every runtime: what `Net` and `Runtime` promise.

#![cfg(unix)]

#[macro_use]
mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use util::{PATIENCE, Runtime, addr_of};

const SHORT: Duration = Duration::from_millis(50);

on_every_runtime!(
    a_deadline_ends_every_call a_deadline_leaves_nothing_on_the_socket overlapping_deadlines
    what_is_in_time_is_kept a_shutdown_ends_a_read a_connect_ends_at_its_deadline tasks_run_and_sleep both_directions_at_once
    a_half_is_closed plain_clients reading_exactly several_accept_with_deadlines
    what_was_reset_is_closed
);

/// Two ends of a connection, one of them of the runtime.
async fn pair<R: Runtime>() -> (R::TcpStream, TcpStream) {
    let listener = R::listen("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(addr_of(&listener)).unwrap();
    let (stream, _) = R::accept(&listener).await.unwrap();
    (stream, client)
}

#[track_caller]
fn assert_timed_out<T>(begin: Instant, result: std::io::Result<T>) {
    let error = result.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(begin.elapsed() >= SHORT && begin.elapsed() < PATIENCE);
}

fn a_deadline_ends_every_call<R: Runtime>() {
    R::block_on(async {
        let (stream, _client) = pair::<R>().await;
        let listener = R::listen("127.0.0.1:0").unwrap();
        let socket = R::listen_packet("127.0.0.1:0").unwrap();
        let mut buf = [0; 100];
        let begin = Instant::now();
        assert_timed_out(begin, R::within(SHORT, R::read(&stream, &mut buf)).await);
        let begin = Instant::now();
        assert_timed_out(begin, R::within(SHORT, R::accept(&listener)).await);
        let begin = Instant::now();
        assert_timed_out(
            begin,
            R::within(SHORT, R::recv_from(&socket, &mut buf)).await,
        );
        // More than the buffers of both ends hold.
        let much = vec![0; 64 << 20];
        let begin = Instant::now();
        assert_timed_out(begin, R::within(SHORT, R::write_all(&stream, &much)).await);
        let begin = Instant::now();
        let sleep = async {
            R::sleep(PATIENCE).await;
            Ok(())
        };
        assert_timed_out(begin, R::within(SHORT, sleep).await);
    });
}

fn a_deadline_leaves_nothing_on_the_socket<R: Runtime>() {
    R::block_on(async {
        let (stream, mut client) = pair::<R>().await;
        let own = socket2::SockRef::from(&stream);
        let state = || {
            (
                own.read_timeout().unwrap(),
                own.write_timeout().unwrap(),
                own.nonblocking().unwrap(),
            )
        };
        let before = state();
        let begin = Instant::now();
        assert_timed_out(begin, R::within(SHORT, R::read(&stream, &mut [0; 9])).await);
        assert_eq!(state(), before);
        // A wait without a deadline is longer than that of before.
        let late = std::thread::spawn(move || {
            std::thread::sleep(SHORT * 3);
            client.write_all(b"late").unwrap();
        });
        let mut buf = [0; 4];
        R::read_exact(&stream, &mut buf).await.unwrap();
        assert_eq!(&buf, b"late");
        late.join().unwrap();
    });
}

/// Of two tasks on one connection each has its own time; and of two that are nested the earlier counts.
fn overlapping_deadlines<R: Runtime>() {
    R::block_on(async {
        let (stream, mut client) = pair::<R>().await;
        let stream = Arc::new(stream);
        let (ended, end) = mpsc::channel();
        let writes = Arc::clone(&stream);
        R::spawn(async move {
            let much = vec![0; 64 << 20];
            let begin = Instant::now();
            let result = R::within(SHORT, R::write_all(&writes, &much)).await;
            ended.send((begin, result)).unwrap();
        })
        .unwrap();
        // It has its time, while the other's is over, and gets what comes afterwards.
        let answer = std::thread::spawn(move || {
            let (begin, result) = end.recv_timeout(PATIENCE).unwrap();
            client.write_all(b"x").unwrap();
            (begin, result, client)
        });
        let mut buf = [0];
        R::within(PATIENCE, R::read(&stream, &mut buf))
            .await
            .unwrap();
        assert_eq!(&buf, b"x");
        let (begin, result, _client) = answer.join().unwrap();
        assert_timed_out(begin, result);

        let begin = Instant::now();
        let nested = R::within(SHORT, R::within(PATIENCE, R::read(&stream, &mut buf)));
        assert_timed_out(begin, nested.await);
        let begin = Instant::now();
        let nested = R::within(PATIENCE, async {
            assert_timed_out(begin, R::within(SHORT, R::read(&stream, &mut [0])).await);
            Ok(7)
        });
        assert_eq!(nested.await.unwrap(), 7);
    });
}

fn what_is_in_time_is_kept<R: Runtime>() {
    R::block_on(async {
        let (stream, mut client) = pair::<R>().await;
        client.write_all(b"in time").unwrap();
        let mut buf = [0; 7];
        R::within(PATIENCE, R::read_exact(&stream, &mut buf))
            .await
            .unwrap();
        assert_eq!(&buf, b"in time");
        let forever = R::within(Duration::MAX, async { Ok(1) });
        assert_eq!(forever.await.unwrap(), 1);
        let error = R::within(PATIENCE, async { Err::<(), _>(ErrorKind::Other.into()) });
        assert_eq!(error.await.unwrap_err().kind(), ErrorKind::Other);
        // There is a look at the socket, however short the time.
        client.write_all(b"!").unwrap();
        R::within(PATIENCE, R::read(&stream, &mut buf))
            .await
            .unwrap();
    });
}

/// Also where it blocks, and dropping it ends nothing.
fn a_shutdown_ends_a_read<R: Runtime>() {
    R::block_on(async {
        let (stream, _client) = pair::<R>().await;
        let stream = Arc::new(stream);
        let ends = Arc::clone(&stream);
        R::spawn(async move {
            // Mostly the other waits by then; it ends in any case.
            R::sleep(SHORT).await;
            R::shutdown(&ends, Shutdown::Both).unwrap();
        })
        .unwrap();
        assert_eq!(R::read(&stream, &mut [0; 9]).await.unwrap(), 0);
    });
}

/// A listener whose queue is full answers no SYN.
fn a_connect_ends_at_its_deadline<R: Runtime>() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(0).unwrap();
    let full = TcpListener::from(socket);
    let addr = full.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, SHORT) {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue of a listener has an end");
    }
    R::block_on(async {
        let connect = async { Ok(R::connect(addr).await?) };
        let begin = Instant::now();
        assert_timed_out(begin, R::within(SHORT, connect).await);
    });
}

fn tasks_run_and_sleep<R: Runtime>() {
    R::block_on(async {
        let (done, told) = mpsc::channel();
        let begin = Instant::now();
        for _ in 0..3 {
            let done = done.clone();
            let task = async move {
                R::sleep(SHORT).await;
                done.send(begin.elapsed()).unwrap();
            };
            R::spawn(task).unwrap();
        }
        drop(done);
        // They run beside this one.
        let mut slept = Vec::new();
        while slept.len() < 3 {
            assert!(begin.elapsed() < PATIENCE);
            R::sleep(Duration::from_millis(1)).await;
            slept.extend(told.try_iter());
        }
        assert!(slept.iter().all(|slept| *slept >= SHORT), "{slept:?}");
    });
}

/// One task reads while another writes, more than all buffers hold, without a duplicate and a lock.
fn both_directions_at_once<R: Runtime>() {
    R::block_on(async {
        const LEN: usize = 8 << 20;
        let (stream, client) = pair::<R>().await;
        let stream = Arc::new(stream);
        let writes = Arc::clone(&stream);
        let peer = std::thread::spawn(move || {
            let mut reads = client.try_clone().unwrap();
            let writing = std::thread::spawn(move || {
                let mut writes = client;
                writes.write_all(&vec![7; LEN]).unwrap();
                writes.shutdown(Shutdown::Write).unwrap();
            });
            // It reads nothing until it has written all.
            writing.join().unwrap();
            let mut all = Vec::new();
            reads.read_to_end(&mut all).unwrap();
            all.len()
        });
        R::spawn(async move {
            R::write_all(&writes, &vec![9; LEN]).await.unwrap();
            R::shutdown(&writes, Shutdown::Write).unwrap();
        })
        .unwrap();
        let (mut read, mut buf) = (0, vec![0; 64 << 10]);
        while let n @ 1.. = R::read(&stream, &mut buf).await.unwrap() {
            assert!(buf[..n].iter().all(|byte| *byte == 7));
            read += n;
        }
        assert_eq!(read, LEN);
        // Not by waiting in the kernel: the task that writes may need this thread.
        let begin = Instant::now();
        while !peer.is_finished() {
            assert!(begin.elapsed() < PATIENCE);
            R::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(peer.join().unwrap(), LEN);
    });
}

fn a_half_is_closed<R: Runtime>() {
    R::block_on(async {
        let (stream, mut client) = pair::<R>().await;
        assert_eq!(R::peer_addr(&stream).unwrap(), client.local_addr().unwrap());
        R::set_nodelay(&stream, true).unwrap();
        assert!(socket2::SockRef::from(&stream).tcp_nodelay().unwrap());
        R::shutdown(&stream, Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0; 9]).unwrap(), 0);
        client.write_all(b"still here").unwrap();
        let mut buf = [0; 10];
        R::read_exact(&stream, &mut buf).await.unwrap();
        assert_eq!(&buf, b"still here");
        let error = R::write(&stream, b"?").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
    });
}

fn plain_clients<R: Runtime>() {
    R::block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let client = R::connect(addr).await.unwrap();
        let (mut server, from) = listener.accept().unwrap();
        assert_eq!(from, addr_of(&client));
        R::write_all(&client, b"hello").await.unwrap();
        let mut buf = [0; 5];
        server.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"hello");
        // It shares nothing: its port is its own.
        assert!(!socket2::SockRef::from(&client).reuse_port().unwrap());

        drop((listener, server));
        let error = R::connect(addr).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(
            error
                .to_string()
                .starts_with(&format!("cannot connect to {addr}: ")),
            "{error}"
        );
        let error = R::connect("127.0.0.1:0".parse().unwrap())
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot connect to 127.0.0.1:0: no socket has port 0"
        );
        let error = R::connect("224.0.0.1:9".parse().unwrap())
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    });
}

fn reading_exactly<R: Runtime>() {
    R::block_on(async {
        let (stream, mut client) = pair::<R>().await;
        let writing = std::thread::spawn(move || {
            for byte in b"abc" {
                client.write_all(&[*byte]).unwrap();
                std::thread::yield_now();
            }
        });
        let mut buf = [0; 2];
        R::read_exact(&stream, &mut buf).await.unwrap();
        assert_eq!(&buf, b"ab");
        R::read_exact(&stream, &mut []).await.unwrap();
        let error = R::read_exact(&stream, &mut buf).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert_eq!(error.to_string(), "the stream ended after 1 of 2 bytes");
        writing.join().unwrap();
    });
}

/// Of many that wait at one listener, one gets the connection, and the others' time is over.
fn several_accept_with_deadlines<R: Runtime>() {
    R::block_on(async {
        let listener = Arc::new(R::listen("127.0.0.1:0").unwrap());
        let (ended, ends) = mpsc::channel();
        for _ in 0..4 {
            let (listener, ended) = (Arc::clone(&listener), ended.clone());
            let accepting = async move {
                let begin = Instant::now();
                let result = R::within(SHORT * 10, R::accept(&listener)).await;
                ended.send((begin.elapsed(), result.map(drop))).unwrap();
            };
            R::spawn(accepting).unwrap();
        }
        drop(ended);
        let _client = TcpStream::connect(addr_of(&*listener)).unwrap();
        let mut results = Vec::new();
        let begin = Instant::now();
        while results.len() < 4 {
            assert!(begin.elapsed() < PATIENCE);
            R::sleep(Duration::from_millis(1)).await;
            results.extend(ends.try_iter());
        }
        let accepted = results.iter().filter(|(_, result)| result.is_ok()).count();
        assert_eq!(accepted, 1, "{results:?}");
        assert!(
            results.iter().all(|(took, _)| *took < PATIENCE),
            "{results:?}"
        );
    });
}

/// An HTTP server ends many connections whose clients are gone: that is no error of its.
fn what_was_reset_is_closed<R: Runtime>() {
    use futures_util::io::AsyncWriteExt;
    R::block_on(async {
        let (stream, client) = pair::<R>().await;
        let own = socket2::SockRef::from(&client);
        own.set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        let error = R::read(&stream, &mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let error = R::shutdown(&stream, Shutdown::Write).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected);
        let mut stream = reuseport::Io::<R>::new(stream);
        stream.close().await.unwrap();
        stream.close().await.unwrap();
    });
}
