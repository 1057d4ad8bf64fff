use std::io;

use axum::{Router, routing::get};
use reuseport::{ReusePort, Tokio};

#[tokio::main]
pub(crate) async fn main() -> io::Result<()> {
    let listener = Tokio::listen(servers::addr())?;
    let app = Router::new().route("/", get(|| async { servers::who() }));
    axum::serve(listener, app).await
}
