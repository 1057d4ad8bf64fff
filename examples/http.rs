//! An HTTP server to run in several terminals at once: `cargo run --example http`
//!
//! Every process serves a part of the connections, and says which one it is. Another address:
//! `cargo run --example http -- 127.0.0.1:8080`

use std::process;

use axum::Router;
use axum::routing::get;
use reuseport::{ReusePort, Tokio};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "localhost:8881".to_owned());
    let listener = Tokio::listen(addr)?;
    println!("process {} listens on http://{}", process::id(), listener.local_addr()?);

    let app = Router::new().route("/", get(|| async { format!("process {}\n", process::id()) }));
    axum::serve(listener, app).await
}
