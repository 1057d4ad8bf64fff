use std::io;

use ::mio::net::{TcpListener, TcpStream, UdpSocket};
use reuseport::ReusePort;

/// Sockets for a loop of one's own. Nothing in them waits, and so there is no `Net`.
#[derive(Clone, Copy, Debug)]
pub struct Mio;

impl ReusePort for Mio {
    type TcpListener = TcpListener;
    type TcpStream = TcpStream;
    type UdpSocket = UdpSocket;

    fn tcp_listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
        Ok(TcpListener::from_std(listener))
    }

    fn tcp_stream(stream: std::net::TcpStream) -> io::Result<TcpStream> {
        Ok(TcpStream::from_std(stream))
    }

    fn udp_socket(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        Ok(UdpSocket::from_std(socket))
    }
}
