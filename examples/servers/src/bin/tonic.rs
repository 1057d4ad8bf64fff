//! tonic: `cargo run --bin tonic -- localhost:8881`, and again in another terminal.

use std::error::Error;

use reuseport::{Serve, Tokio};
use servers::grpc::Who;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (listener, generation) = Tokio::serve(servers::addr())?; // instead of TcpIncoming::bind
    servers::stop_on_sigterm(&generation); // SIGTERM

    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    // HTTP/2 says farewell by itself: GOAWAY.
    Server::builder()
        .add_service(Who)
        .serve_with_incoming_shutdown(incoming, generation.shutdown()) // reuseport 1
        .await?;
    generation.outcome()?; // reuseport 2
    Ok(())
}
