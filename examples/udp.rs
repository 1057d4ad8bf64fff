//! A UDP echo server that says who answers: `cargo run --example udp`
//!
//! Each process, of which there can be several, has a socket and a thread for every core, and one
//! of them all gets what a client sends. Ask with `nc -u 127.0.0.1 8881`. Another address:
//! `cargo run --example udp -- 127.0.0.1:8080`

use std::net::UdpSocket;
use std::{env, error::Error, process, thread};

use reuseport::{Member, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let addr = env::args().nth(1);
    let addr = addr.as_deref().unwrap_or("localhost:8881");
    let cores = thread::available_parallelism()?.get();
    // Without `join`, a second process would get an error.
    let group = Options::new().join(true).packet_group(addr, cores)?;
    let addr = group.local_addr();
    println!("process {} listens on {addr}", process::id());
    println!("try: nc -u {} {}", addr.ip(), addr.port());
    println!("try: start this program again in another terminal");

    thread::scope(|scope| {
        for member in group {
            scope.spawn(|| echo(member));
        }
    });
    Ok(())
}

fn echo(member: Member<UdpSocket>) {
    let who = format!("process {} member {}: ", process::id(), member.number());
    let socket = member.into_std();
    let mut buf = [0; 64 << 10];
    loop {
        let sent = socket.recv_from(&mut buf).and_then(|(len, peer)| {
            let answer = [who.as_bytes(), &buf[..len]].concat();
            socket.send_to(&answer, peer)
        });
        if let Err(error) = sent {
            eprintln!("cannot echo: {error}");
        }
    }
}
