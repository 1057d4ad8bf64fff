//! `cargo run --example dns -- smol 127.0.0.1:4000 9.9.9.9:53`; or std, tokio, async-std.
//!
//! Start it again to restart it, on whichever runtime: the new process takes over from the old one.

use std::{env, io, net::SocketAddr};

use libraries::dns;
use reuseport::{AsyncStd, Runtime, Serve, Smol, Std, Tokio};

async fn serve<R: Runtime>(addr: &str, upstream: SocketAddr) -> io::Result<()> {
    let (listener, streams) = R::serve(addr)?;
    let (socket, packets) = R::serve_packet(addr)?;
    println!("process {} serves on {addr}", std::process::id());
    let incoming = streams.incoming::<R>(listener);
    R::spawn(async move {
        if let Err(error) = dns::serve::<R>(incoming, upstream).await {
            eprintln!("{error}");
        }
    })?;
    dns::serve_packets::<R>(socket, &packets, upstream).await?;
    streams.shutdown().await;
    println!(
        "process {} ends: {:?}",
        std::process::id(),
        streams.outcome()?
    );
    Ok(())
}

fn main() -> io::Result<()> {
    let [runtime, addr, upstream] = [(1, "smol"), (2, "127.0.0.1:4000"), (3, "9.9.9.9:53")]
        .map(|(i, default)| env::args().nth(i).unwrap_or_else(|| default.to_owned()));
    let upstream = upstream.parse().map_err(io::Error::other)?;
    match &*runtime {
        "std" => smol::block_on(serve::<Std>(&addr, upstream)),
        "tokio" => tokio::runtime::Runtime::new()?.block_on(serve::<Tokio>(&addr, upstream)),
        "async-std" => async_std::task::block_on(serve::<AsyncStd>(&addr, upstream)),
        "smol" => smol::block_on(serve::<Smol>(&addr, upstream)),
        _ => Err(io::Error::other(format!("{runtime:?} is no runtime here"))),
    }
}
