//! A server that is restarted by starting it again: `cargo run --example restart`
//!
//! Start it again in another terminal, while `cargo run --example load` asks it in a third: the new
//! process takes over, and the old one finishes its connections and ends. Ctrl+C ends the last one, and
//! resets no client. Another address: `cargo run --example restart -- 127.0.0.1:8080`

use std::{env, error::Error, process, thread, time::Duration};

use axum::{Router, routing::get};
use reuseport::{Options, Tokio};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (me, addr) = (process::id(), env::args().nth(1));
    let addr = addr.as_deref().unwrap_or("localhost:8881");
    let cores = thread::available_parallelism()?.get();
    let (group, generation) = Options::new().generation(addr, cores)?;
    let addr = group.local_addr();

    let app = Router::new().route("/", get(format!("process {me}\n")));
    let app = app.layer(generation.farewell());
    let mut workers = JoinSet::new();
    for member in group {
        let (listener, app) = (member.attach::<Tokio>()?, app.clone());
        let server = axum::serve(listener, app).with_graceful_shutdown(generation.shutdown());
        workers.spawn(server.into_future());
    }

    // A handshake with a client that has vanished ends after 63 seconds.
    let drained = generation.take_over(Duration::from_secs(64)).await?;
    println!("process {me} listens on {addr}");
    if let Some(predecessor) = generation.predecessor() {
        let lost = drained.unaccepted;
        println!("process {me} took over from {predecessor}: {lost} connections lost");
    } else {
        println!("try: cargo run --example load -- {addr}");
        println!("try: start this program again in another terminal");
    }

    let stops = generation.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stops.stop();
        }
    });
    generation.relieved().await;
    println!("process {me} is relieved, and finishes its connections");
    workers.join_all().await;
    println!("process {me} ends");
    Ok(())
}
