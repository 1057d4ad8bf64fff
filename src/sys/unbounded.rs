//! Calls on sockets that block, on systems where such a call cannot have a deadline: see `bounded`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use super::unsupported;

fn check(until: Option<Instant>) -> io::Result<()> {
    match until {
        None => Ok(()),
        Some(_) => Err(unsupported(
            "on this system a call that blocks has no deadline",
        )),
    }
}

pub(crate) fn read(
    mut stream: &TcpStream,
    buf: &mut [u8],
    until: Option<Instant>,
) -> io::Result<usize> {
    check(until)?;
    stream.read(buf)
}

pub(crate) fn write(
    mut stream: &TcpStream,
    buf: &[u8],
    until: Option<Instant>,
) -> io::Result<usize> {
    check(until)?;
    stream.write(buf)
}

pub(crate) fn recv_from(
    socket: &UdpSocket,
    buf: &mut [u8],
    until: Option<Instant>,
) -> io::Result<(usize, SocketAddr)> {
    check(until)?;
    socket.recv_from(buf)
}

pub(crate) fn send_to(
    socket: &UdpSocket,
    buf: &[u8],
    to: SocketAddr,
    until: Option<Instant>,
) -> io::Result<usize> {
    check(until)?;
    socket.send_to(buf, to)
}

pub(crate) fn accept(
    listener: &TcpListener,
    until: Option<Instant>,
) -> io::Result<(TcpStream, SocketAddr)> {
    check(until)?;
    listener.accept()
}

pub(crate) fn finish_connect(stream: &TcpStream, until: Option<Instant>) -> io::Result<()> {
    check(until)?;
    super::finish_connect(stream)
}
