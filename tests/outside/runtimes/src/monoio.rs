use std::io;

use ::monoio::net::udp::UdpSocket;
use ::monoio::net::{TcpListener, TcpStream};
use reuseport::ReusePort;

/// Sockets that stay on the thread of their runtime, which `Net` would not take.
#[derive(Clone, Copy, Debug)]
pub struct Monoio;

impl ReusePort for Monoio {
    type TcpListener = TcpListener;
    type TcpStream = TcpStream;
    type UdpSocket = UdpSocket;

    fn tcp_listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
        TcpListener::from_std(listener)
    }

    fn tcp_stream(stream: std::net::TcpStream) -> io::Result<TcpStream> {
        TcpStream::from_std(stream)
    }

    fn udp_socket(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        UdpSocket::from_std(socket)
    }
}
