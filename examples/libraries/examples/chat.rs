//! `cargo run --example chat -- smol 127.0.0.1:4000`; or std, tokio, async-std.
//!
//! Start it again to restart it, on whichever runtime: the new process takes over from the old one.

use std::{env, io, sync::Arc};

use libraries::chat::{self, Room};
use reuseport::{AsyncStd, Runtime, Serve, Smol, Std, Tokio};

async fn serve<R: Runtime>(addr: &str) -> io::Result<()> {
    let (listener, generation) = R::serve(addr)?;
    println!("process {} serves on {addr}", std::process::id());
    chat::serve::<R>(
        generation.incoming::<R>(listener),
        Arc::new(Room::default()),
    )
    .await?;
    println!(
        "process {} ends: {:?}",
        std::process::id(),
        generation.outcome()?
    );
    Ok(())
}

fn main() -> io::Result<()> {
    let [runtime, addr] = [(1, "smol"), (2, "127.0.0.1:4000")]
        .map(|(i, default)| env::args().nth(i).unwrap_or_else(|| default.to_owned()));
    match &*runtime {
        "std" => smol::block_on(serve::<Std>(&addr)),
        "tokio" => tokio::runtime::Runtime::new()?.block_on(serve::<Tokio>(&addr)),
        "async-std" => async_std::task::block_on(serve::<AsyncStd>(&addr)),
        "smol" => smol::block_on(serve::<Smol>(&addr)),
        _ => Err(io::Error::other(format!("{runtime:?} is no runtime here"))),
    }
}
