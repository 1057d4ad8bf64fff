//! axum: `cargo run --bin axum -- localhost:8881`, and again in another terminal.

use std::io;

use axum::{Router, routing::get};
use reuseport::{Serve, Tokio};

#[tokio::main]
async fn main() -> io::Result<()> {
    let (listener, generation) = Tokio::serve(servers::addr())?; // instead of TcpListener::bind
    servers::stop_on_sigterm(&generation); // SIGTERM

    let app = Router::new()
        .route("/", get(|| async { servers::who() }))
        .layer(generation.farewell()); // reuseport 1
    axum::serve(listener, app)
        .with_graceful_shutdown(generation.shutdown()) // reuseport 2
        .await?;
    generation.outcome()?; // reuseport 3
    Ok(())
}
