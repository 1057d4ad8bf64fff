use ::std::io::{self, Read, Write};
use ::std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};

use crate::{Net, ReusePort, sys};

/// The standard library: blocking sockets, for threads.
///
/// Its [`Net`] functions block; each future is ready when it is first polled. That serves a thread
/// per worker, and must not run on a thread that drives other tasks.
///
/// ```
/// use reuseport::{ReusePort, Std};
///
/// let listener: std::net::TcpListener = Std::listen("localhost:0")?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Std;

impl ReusePort for Std {
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

impl Net for Std {
    async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        listener.accept()
    }

    async fn read(stream: &mut TcpStream, buf: &mut [u8]) -> io::Result<usize> {
        stream.read(buf)
    }

    async fn write_all(stream: &mut TcpStream, buf: &[u8]) -> io::Result<()> {
        stream.write_all(buf)
    }

    async fn recv_from(socket: &UdpSocket, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        socket.recv_from(buf)
    }

    async fn send_to(socket: &UdpSocket, buf: &[u8], to: SocketAddr) -> io::Result<usize> {
        socket.send_to(buf, to)
    }

    async fn connected(stream: TcpStream) -> io::Result<TcpStream> {
        sys::finish_connect(&stream)?;
        Ok(stream)
    }

    async fn lookup(host: &str) -> io::Result<Vec<SocketAddr>> {
        host.to_socket_addrs().map(Iterator::collect)
    }
}
