use std::error::Error;
use std::sync::Arc;

use quinn::{Endpoint, EndpointConfig, TokioRuntime};
use reuseport::{ReusePort, Std};

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let socket = Std::listen_packet(servers::addr())?;
    let server = Some(servers::quic::config()?);
    let runtime = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new(EndpointConfig::default(), server, socket, runtime)?;
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(servers::quic::answer(incoming));
    }
    Ok(())
}
