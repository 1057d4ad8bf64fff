//! An HTTP server to run in several terminals at once: `cargo run --example http`
//!
//! Every process serves a part of the connections, and says which one it is: `curl localhost:8881`.
//! Another address: `cargo run --example http -- 127.0.0.1:8080`

use std::{env, error::Error, process};

use axum::{Router, routing::get};
use reuseport::{ReusePort, Tokio};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let addr = env::args().nth(1);
    let listener = Tokio::listen(addr.as_deref().unwrap_or("localhost:8881"))?;
    let addr = listener.local_addr()?;
    println!("process {} listens on {addr}", process::id());
    println!("try: curl {addr}");
    println!("try: start this program again in another terminal");

    let who = format!("process {}\n", process::id());
    axum::serve(listener, Router::new().route("/", get(who))).await?;
    Ok(())
}
