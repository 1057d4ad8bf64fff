//! monoio, from outside the crate: `cargo run --bin monoio -- localhost:8881`, and again in another terminal.

use std::io;

use async_channel::bounded;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::udp::UdpSocket;
use monoio::net::{TcpListener, TcpStream};
use reuseport::{Generation, ReusePort, Serve};

/// Three functions are all that a runtime needs.
#[derive(Clone, Copy, Debug)]
struct Monoio;

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

#[monoio::main]
async fn main() -> io::Result<()> {
    let (listener, generation) = Monoio::serve(servers::addr())?; // instead of TcpListener::bind
    servers::stop_on_sigterm(&generation); // SIGTERM

    let (open, ended) = bounded::<()>(1);
    let mut shutdown = generation.shutdown(); // reuseport 1
    loop {
        let accepted = monoio::select! {
            biased;
            // It is ready seconds after the last connection came: so none is left behind.
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (open, generation) = (open.clone(), generation.clone());
        monoio::spawn(async move {
            // A client that goes away is no error of the server's.
            let _ = serve(stream, generation).await;
            drop(open);
        });
    }
    drop(open);
    // An error when every connection has ended.
    let _ = ended.recv().await;
    generation.outcome()?; // reuseport 2
    Ok(())
}

async fn serve(mut stream: TcpStream, generation: Generation) -> io::Result<()> {
    let mut end = generation.shutdown(); // reuseport 3: no request comes any more
    let mut received = Vec::new();
    loop {
        let (n, buf) = monoio::select! {
            biased;
            read = stream.read(Vec::with_capacity(1024)) => read,
            () = &mut end => return Ok(()),
        };
        if n? == 0 {
            return Ok(());
        }
        received.extend_from_slice(&buf);
        let closes = generation.farewell().is_ending(); // reuseport 4: the client's next request is another process's
        while let Some(answer) = servers::http::answer(&mut received, closes) {
            stream.write_all(answer).await.0?;
            if closes {
                return Ok(());
            }
        }
    }
}
