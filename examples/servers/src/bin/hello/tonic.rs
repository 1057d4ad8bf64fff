use std::error::Error;

use reuseport::{ReusePort, Tokio};
use servers::grpc::Who;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let listener = Tokio::listen(servers::addr())?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .add_service(Who)
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
