use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};

use ::async_io::Async;
use reuseport::{Net, ReusePort};

/// The reactor under smol and async-std, with nothing above it.
pub struct AsyncIo;

impl ReusePort for AsyncIo {
    type TcpListener = Async<TcpListener>;
    type TcpStream = Async<TcpStream>;
    type UdpSocket = Async<UdpSocket>;

    fn tcp_listener(listener: TcpListener) -> io::Result<Async<TcpListener>> {
        Async::new_nonblocking(listener)
    }

    fn tcp_stream(stream: TcpStream) -> io::Result<Async<TcpStream>> {
        Async::new_nonblocking(stream)
    }

    fn udp_socket(socket: UdpSocket) -> io::Result<Async<UdpSocket>> {
        Async::new_nonblocking(socket)
    }
}

impl Net for AsyncIo {
    async fn accept(listener: &Async<TcpListener>) -> io::Result<(Async<TcpStream>, SocketAddr)> {
        listener.accept().await
    }

    async fn read(stream: &mut Async<TcpStream>, buf: &mut [u8]) -> io::Result<usize> {
        stream.read_with(|mut stream| stream.read(buf)).await
    }

    async fn write_all(stream: &mut Async<TcpStream>, mut buf: &[u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match stream.write_with(|mut stream| stream.write(buf)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => buf = &buf[n..],
            }
        }
        Ok(())
    }

    async fn recv_from(
        socket: &Async<UdpSocket>,
        buf: &mut [u8],
    ) -> io::Result<(usize, SocketAddr)> {
        socket.recv_from(buf).await
    }

    async fn send_to(socket: &Async<UdpSocket>, buf: &[u8], to: SocketAddr) -> io::Result<usize> {
        socket.send_to(buf, to).await
    }

    async fn connected(stream: TcpStream) -> io::Result<Async<TcpStream>> {
        let stream = Async::new_nonblocking(stream)?;
        stream.writable().await?;
        stream.get_ref().take_error()?.map_or(Ok(stream), Err)
    }

    async fn lookup(host: &str) -> io::Result<Vec<SocketAddr>> {
        let host = host.to_owned();
        blocking::unblock(move || host.to_socket_addrs().map(Iterator::collect)).await
    }
}
