//! DNS by hickory: `cargo run --bin hickory -- localhost:8881`, and again in another terminal.
//!
//! `dig @localhost -p 8881 any.name TXT`, and with `+tcp`, says who answers.

use std::error::Error;
use std::time::Duration;

use hickory_server::Server;
use reuseport::{Serve, Tokio};
use servers::dns::Who;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (socket, udp) = Tokio::serve_packet(servers::addr())?; // instead of UdpSocket::bind
    let (listener, tcp) = Tokio::serve(servers::addr())?; // instead of TcpListener::bind
    servers::stop_on_sigterm(&udp); // SIGTERM
    servers::stop_on_sigterm(&tcp);

    let mut server = Server::new(Who);
    server.register_socket(socket);
    server.register_listener(listener, Duration::from_secs(5), 8);
    tokio::join!(udp.shutdown(), tcp.shutdown()); // reuseport 1: each port has a generation
    server.shutdown_gracefully().await?;
    udp.outcome()?; // reuseport 2
    tcp.outcome()?; // reuseport 3
    Ok(())
}
