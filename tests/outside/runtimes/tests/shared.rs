//! Two listeners of each runtime share a port, and both get connections.

use std::future::Future;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use futures_lite::future::{or, try_zip};
use mio::{Interest, Token};
use reuseport::{Net, ReusePort, support};
use runtimes::{AsyncIo, Mio};
use static_assertions::{assert_impl_all, assert_not_impl_any};

const CLIENTS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);

assert_impl_all!(AsyncIo: ReusePort, Net);
assert_impl_all!(Mio: ReusePort);
#[cfg(target_os = "linux")]
assert_impl_all!(runtimes::Monoio: ReusePort);
// Which is why the sockets of `ReusePort` have no bounds, and `Net` has.
#[cfg(target_os = "linux")]
assert_not_impl_any!(<runtimes::Monoio as ReusePort>::TcpListener: Send, Sync);
#[cfg(target_os = "linux")]
assert_not_impl_any!(<runtimes::Monoio as ReusePort>::TcpStream: Send, Sync);

/// Connections that wait to be accepted.
fn connect(addr: SocketAddr) -> Vec<TcpStream> {
    (0..CLIENTS)
        .map(|_| TcpStream::connect_timeout(&addr, PATIENCE).unwrap())
        .collect()
}

fn assert_both(counts: [usize; 2]) {
    assert_eq!(counts.iter().sum::<usize>(), CLIENTS);
    if support().spreads {
        assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
    } else {
        let _ = writeln!(
            std::io::stderr(),
            "not checked: that both listeners get connections (this system does not spread them)"
        );
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    async_io::block_on(or(future, async {
        async_io::Timer::after(PATIENCE).await;
        panic!("not done in {PATIENCE:?}");
    }))
}

/// How many connections each of two listeners gets.
async fn count<A, B>(first: impl Fn() -> A, second: impl Fn() -> B) -> [usize; 2]
where
    A: Future<Output = std::io::Result<()>>,
    B: Future<Output = std::io::Result<()>>,
{
    let mut counts = [0; 2];
    for _ in 0..CLIENTS {
        let (which, result) = or(async { (0, first().await) }, async { (1, second().await) }).await;
        result.unwrap();
        counts[which] += 1;
    }
    counts
}

#[test]
fn async_io() {
    let first = AsyncIo::listen("127.0.0.1:0").unwrap();
    let addr = first.get_ref().local_addr().unwrap();
    let second = AsyncIo::listen(addr).unwrap();
    let _clients = connect(addr);
    assert_both(block_on(count(
        || async { AsyncIo::accept(&first).await.map(drop) },
        || async { AsyncIo::accept(&second).await.map(drop) },
    )));
}

#[test]
fn async_io_runs_a_library() {
    let listener = AsyncIo::listen("127.0.0.1:0").unwrap();
    let addr = listener.get_ref().local_addr().unwrap();
    let own = AsyncIo::listen("127.0.0.1:0").unwrap();
    let client = async {
        let own_addr = own.get_ref().local_addr()?;
        let stream = AsyncIo::dial(own_addr, addr).await?;
        assert_eq!(stream.get_ref().local_addr()?, own_addr);
        AsyncIo::write_all(&stream, b"hello").await?;
        stream.get_ref().shutdown(Shutdown::Write)?;
        let mut echo: Vec<u8> = Vec::new();
        let mut buf = [0; 16];
        while let n @ 1.. = AsyncIo::read(&stream, &mut buf).await? {
            echo.extend(&buf[..n]);
        }
        assert_eq!(echo, b"hello");
        Ok(())
    };
    block_on(try_zip(library::serve::<AsyncIo>(listener, 1), client)).unwrap();

    let socket = AsyncIo::listen_packet("127.0.0.1:0").unwrap();
    let addr = socket.get_ref().local_addr().unwrap();
    let own = AsyncIo::listen_packet("127.0.0.1:0").unwrap();
    let client = async {
        AsyncIo::send_to(&own, b"hello", addr).await?;
        let mut buf = [0; 16];
        let (len, peer) = AsyncIo::recv_from(&own, &mut buf).await?;
        assert_eq!((&buf[..len], peer), (&b"hello"[..], addr));
        Ok(())
    };
    block_on(try_zip(
        library::serve_packets::<AsyncIo>(socket, 1),
        client,
    ))
    .unwrap();

    let found = block_on(AsyncIo::lookup("localhost:80")).unwrap();
    assert!(
        found
            .iter()
            .all(|addr| addr.ip().is_loopback() && addr.port() == 80),
        "{found:?}"
    );
}

#[test]
fn mio() {
    let mut first = Mio::listen("127.0.0.1:0").unwrap();
    let addr = first.local_addr().unwrap();
    let mut second = Mio::listen(addr).unwrap();
    let _clients = connect(addr);
    let mut poll = mio::Poll::new().unwrap();
    poll.registry()
        .register(&mut first, Token(0), Interest::READABLE)
        .unwrap();
    poll.registry()
        .register(&mut second, Token(1), Interest::READABLE)
        .unwrap();
    let mut events = mio::Events::with_capacity(2);
    let mut counts = [0; 2];
    while counts.iter().sum::<usize>() < CLIENTS {
        poll.poll(&mut events, Some(PATIENCE)).unwrap();
        assert!(!events.is_empty(), "connections are missing: {counts:?}");
        for (listener, count) in [&first, &second].into_iter().zip(&mut counts) {
            let error = loop {
                match listener.accept() {
                    Ok(_) => *count += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
    }
    assert_both(counts);
}

#[cfg(target_os = "linux")]
#[test]
fn monoio() {
    use monoio::{LegacyDriver, RuntimeBuilder, time};
    use runtimes::Monoio;

    let mut runtime = RuntimeBuilder::<LegacyDriver>::new()
        .enable_timer()
        .build()
        .unwrap();
    assert_both(runtime.block_on(async {
        let first = Monoio::listen("127.0.0.1:0").unwrap();
        let addr = first.local_addr().unwrap();
        let second = Monoio::listen(addr).unwrap();
        let _clients = connect(addr);
        let counts = count(
            || async { first.accept().await.map(drop) },
            || async { second.accept().await.map(drop) },
        );
        time::timeout(PATIENCE, counts)
            .await
            .expect("all connections arrive")
    }));
}
