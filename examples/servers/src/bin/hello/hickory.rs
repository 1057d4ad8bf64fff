use std::error::Error;
use std::time::Duration;

use hickory_server::Server;
use reuseport::{ReusePort, Tokio};
use servers::dns::Who;

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let socket = Tokio::listen_packet(servers::addr())?;
    let listener = Tokio::listen(servers::addr())?;
    let mut server = Server::new(Who);
    server.register_socket(socket);
    server.register_listener(listener, Duration::from_secs(5), 8);
    server.block_until_done().await?;
    Ok(())
}
