//! Servers that are written once, over any runtime, and run on all four.

#![cfg(unix)]

#[macro_use]
mod util;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};

use reuseport::Net;
use util::{Runtime, addr_of};

/// Answers `n` connections, one after the other.
async fn serve_streams<R: Net>(listener: R::TcpListener, n: usize) -> io::Result<()> {
    for _ in 0..n {
        let (stream, _) = R::accept(&listener).await?;
        let mut buf = [0; 100];
        while let len @ 1.. = R::read(&stream, &mut buf).await? {
            R::write_all(&stream, &buf[..len]).await?;
        }
    }
    Ok(())
}

/// Answers datagrams, until one says that it is the last.
async fn serve_datagrams<R: Net>(socket: R::UdpSocket) -> io::Result<()> {
    let mut buf = [0; 100];
    loop {
        let (len, from) = R::recv_from(&socket, &mut buf).await?;
        R::send_to(&socket, &buf[..len], from).await?;
        if &buf[..len] == b"last" {
            return Ok(());
        }
    }
}

on_every_runtime!(an_echo_server_of_streams an_echo_server_of_datagrams);

fn an_echo_server_of_streams<R: Runtime>() {
    R::block_on(async {
        let listener = R::listen("localhost:0").unwrap();
        let addr = addr_of(&listener);
        let client = std::thread::spawn(move || {
            // More than a socket's buffers hold, so that writing has to wait.
            let sent: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
            for len in [0, 1, 1000, sent.len()] {
                let mut stream = TcpStream::connect(addr).unwrap();
                let mut reader = stream.try_clone().unwrap();
                let received = std::thread::spawn(move || {
                    let mut received = Vec::new();
                    reader.read_to_end(&mut received).map(|_| received).unwrap()
                });
                stream.write_all(&sent[..len]).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                assert!(
                    received.join().unwrap() == sent[..len],
                    "{len} bytes come back"
                );
            }
        });
        serve_streams::<R>(listener, 4).await.unwrap();
        client.join().unwrap();
    });
}

fn an_echo_server_of_datagrams<R: Runtime>() {
    R::block_on(async {
        let socket = R::listen_packet("localhost:0").unwrap();
        let addr = addr_of(&socket);
        let client = std::thread::spawn(move || {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            for datagram in [&b""[..], b"a", b"bcd"] {
                let _sending = util::keep_sending(&client, datagram, addr);
                let mut buf = [0; 100];
                while client.recv(&mut buf).map(|len| &buf[..len]).unwrap() != datagram {}
            }
            util::keep_sending(&client, b"last", addr)
        });
        serve_datagrams::<R>(socket).await.unwrap();
        drop(client.join().unwrap());
    });
}
