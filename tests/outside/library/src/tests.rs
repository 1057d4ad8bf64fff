//! A test needs no runtime: the sockets of this one block, and so each future is ready at once.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use reuseport::{Net, ReusePort};

use crate::{serve, serve_packets};

#[derive(Clone, Copy, Debug)]
struct Blocking;

impl ReusePort for Blocking {
    type TcpListener = TcpListener;
    type TcpStream = TcpStream;
    type UdpSocket = UdpSocket;

    const NONBLOCKING: bool = false;

    fn tcp_listener(listener: TcpListener) -> io::Result<TcpListener> {
        Ok(listener)
    }

    fn tcp_stream(stream: TcpStream) -> io::Result<TcpStream> {
        Ok(stream)
    }

    fn udp_socket(socket: UdpSocket) -> io::Result<UdpSocket> {
        Ok(socket)
    }
}

impl Net for Blocking {
    async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        listener.accept()
    }

    fn poll_read(
        mut stream: &TcpStream,
        _: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(stream.read(buf))
    }

    fn poll_write(
        mut stream: &TcpStream,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(stream.write(buf))
    }

    async fn recv_from(socket: &UdpSocket, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        socket.recv_from(buf)
    }

    async fn send_to(socket: &UdpSocket, buf: &[u8], to: SocketAddr) -> io::Result<usize> {
        socket.send_to(buf, to)
    }

    async fn connected(_: TcpStream) -> io::Result<TcpStream> {
        Err(io::ErrorKind::Unsupported.into()) // Nothing here dials.
    }

    async fn lookup(host: &str) -> io::Result<Vec<SocketAddr>> {
        host.to_socket_addrs().map(Iterator::collect)
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a blocking future waits"),
    }
}

#[test]
fn echoes_connections() {
    let listener = Blocking::listen("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = thread::spawn(|| now(serve::<Blocking>(listener, 3)));
    for text in ["one", "two", "three"] {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut echo = String::new();
        stream.read_to_string(&mut echo).unwrap();
        assert_eq!(echo, text);
    }
    server.join().unwrap().unwrap();
}

#[test]
fn echoes_datagrams() {
    let socket = Blocking::listen_packet("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let server = thread::spawn(|| now(serve_packets::<Blocking>(socket, 3)));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    for text in ["one", "two", "three"] {
        client.send_to(text.as_bytes(), addr).unwrap();
        let mut buf = [0; 16];
        let (len, peer) = client.recv_from(&mut buf).unwrap();
        assert_eq!((&buf[..len], peer), (text.as_bytes(), addr));
    }
    server.join().unwrap().unwrap();
}

/// So that whoever uses the library can spawn its servers, whatever `R` is.
#[allow(dead_code, reason = "it only has to compile")]
fn futures_are_send<R: Net>(listener: R::TcpListener, socket: R::UdpSocket) {
    fn assert_send(_: impl Send) {}
    assert_send(serve::<R>(listener, 1));
    assert_send(serve_packets::<R>(socket, 1));
}
