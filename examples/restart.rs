//! A server that is restarted by starting it again: `cargo run --example restart`
//!
//! Start it again in another terminal, while `cargo run --example load` asks it in a third: the new
//! process takes over, and the old one finishes its connections and ends. Another address:
//! `cargo run --example restart -- 127.0.0.1:8080`

mod graceful;

use std::{env, io, process, thread, time::Duration};

use axum::{Router, routing::get};
use reuseport::{Options, Tokio};
use tokio::task::JoinSet;

fn main() {
    if let Err(error) = serve() {
        eprintln!("{error}");
        process::exit(1);
    }
}

#[tokio::main]
async fn serve() -> io::Result<()> {
    let (me, addr) = (process::id(), env::args().nth(1));
    let addr = addr.as_deref().unwrap_or("localhost:8881");
    let cores = thread::available_parallelism()?.get();
    let (group, generation) = Options::new().generation(addr, cores)?;
    let addr = group.local_addr();

    let app = Router::new().route("/", get(format!("process {me}\n")));
    let mut workers = JoinSet::new();
    for member in group {
        let listener = member.attach::<Tokio>()?;
        workers.spawn(graceful::serve(
            listener,
            app.clone(),
            generation.relieved(),
        ));
    }
    // A handshake with a client that has vanished ends after 63 seconds.
    let lost = generation.take_over(Duration::from_secs(64)).await?;
    println!("process {me} listens on {addr}");
    if let Some(before) = generation.predecessor() {
        println!("process {me} took over from process {before}: {lost} connections lost");
    }

    generation.relieved().await;
    println!("process {me} is relieved, and finishes its connections");
    workers.join_all().await;
    println!("process {me} ends");
    Ok(())
}
