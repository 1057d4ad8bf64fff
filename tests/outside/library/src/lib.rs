//! Echo servers for whichever runtime their users have.

use std::io;

use reuseport::Net;

/// Echoes so many connections, one after another.
pub async fn serve<R: Net>(listener: R::TcpListener, connections: usize) -> io::Result<()> {
    for _ in 0..connections {
        let (stream, _) = R::accept(&listener).await?;
        let mut buf = [0; 1024];
        while let n @ 1.. = R::read(&stream, &mut buf).await? {
            R::write_all(&stream, &buf[..n]).await?;
        }
    }
    Ok(())
}

/// Echoes so many datagrams.
pub async fn serve_packets<R: Net>(socket: R::UdpSocket, datagrams: usize) -> io::Result<()> {
    for _ in 0..datagrams {
        let mut buf = [0; 1024];
        let (len, peer) = R::recv_from(&socket, &mut buf).await?;
        R::send_to(&socket, &buf[..len], peer).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
