//! QUIC by quinn: `cargo run --bin quinn -- localhost:8881`, and again in another terminal.
//!
//! A connection goes on with the process that it began with until the client closes it.

use std::error::Error;
use std::sync::Arc;

use quinn::{Endpoint, EndpointConfig, TokioRuntime};
use reuseport::{ConnectionIds, Options, Steering};
use servers::ids::Numbered;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let ids = Steering::ConnectionIds(ConnectionIds::quic()); // reuseport 1: who gets a datagram
    let options = Options::new().steering(ids);
    let (group, generation) = options.packet_generation(servers::addr(), 1)?; // instead of UdpSocket::bind
    servers::stop_on_sigterm(&generation); // SIGTERM

    let member = group.into_iter().next().expect("a group of one member");
    let number = member.number() as u8;
    let mut config = EndpointConfig::default();
    config.cid_generator(move || Box::new(Numbered(number))); // reuseport 2
    let runtime = Arc::new(TokioRuntime);
    let server = Some(servers::quic::config()?);
    let endpoint = Endpoint::new(config, server, member.into_std(), runtime)?;
    let mut shutdown = generation.shutdown(); // reuseport 3
    loop {
        tokio::select! {
            biased;
            Some(incoming) = endpoint.accept() => tokio::spawn(servers::quic::answer(incoming)),
            () = &mut shutdown => break,
        };
    }
    endpoint.set_server_config(None);
    endpoint.wait_idle().await;
    generation.outcome()?; // reuseport 4
    Ok(())
}
