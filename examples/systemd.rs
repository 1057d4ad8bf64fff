//! A server whose listener systemd opens, or itself: `cargo run --example systemd`
//!
//! With systemd: `systemd-socket-activate -l 8881 target/debug/examples/systemd`, and then
//! `curl localhost:8881`. In a unit, `ReusePort=yes` lets the port be shared. Another address:
//! `cargo run --example systemd -- 127.0.0.1:8080`

use std::net::TcpListener;
use std::{env, io, process};

use axum::{Router, routing::get};
use listenfd::ListenFd;
use reuseport::{ReusePort, Tokio};

fn main() {
    // Before there are threads: it takes variables out of the environment.
    let inherited = ListenFd::from_env().take_tcp_listener(0);
    if let Err(error) = inherited.and_then(serve) {
        eprintln!("{error}");
        process::exit(1);
    }
}

#[tokio::main]
async fn serve(inherited: Option<TcpListener>) -> io::Result<()> {
    let addr = env::args().nth(1);
    let listener = match inherited {
        Some(listener) => Tokio::adopt(listener)?,
        None => Tokio::listen(addr.as_deref().unwrap_or("localhost:8881"))?,
    };
    let addr = listener.local_addr()?;
    println!("process {} listens on {addr}", process::id());
    println!("try: curl {addr}");
    println!("try: systemd-socket-activate -l 8882 target/debug/examples/systemd");

    let who = format!("process {}\n", process::id());
    axum::serve(listener, Router::new().route("/", get(who))).await
}
