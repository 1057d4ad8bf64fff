//! A QUIC server that says who answers: `cargo run --example quic`
//!
//! Every core has a thread and an endpoint of its own. Each endpoint begins its connection ids with
//! its number, by which the kernel finds it: a client whose address changes stays where it is. What
//! comes in on a stream goes back behind the name of the member, to a client that trusts the
//! certificate. Another address: `cargo run --example quic -- 127.0.0.1:8080`

use std::error::Error;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;
use std::{env, io, process, thread};

use quinn::rustls::crypto::ring;
use quinn::{
    ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, Incoming, ServerConfig,
    TokioRuntime,
};
use reuseport::{ConnectionIds, Member, Options, Steering};

fn main() -> Result<(), Box<dyn Error>> {
    let addr = env::args().nth(1);
    let addr = addr.as_deref().unwrap_or("localhost:8881");
    // One byte numbers 256 members.
    let cores = thread::available_parallelism()?.get().min(256);
    let ids = Steering::ConnectionIds(ConnectionIds::quic());
    let group = Options::new().steering(ids).packet_group(addr, cores)?;

    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (cert, key) = (own.cert.der().clone(), own.signing_key.serialize_der());
    let hex: String = cert.iter().map(|byte| format!("{byte:02x}")).collect();
    // One for all, because the next member may get the token that this one gave out.
    let config = ServerConfig::with_single_cert(vec![cert], key.try_into()?)?;
    let addr = group.local_addr();
    println!("process {} listens on {addr}", process::id());
    println!("certificate {hex}");
    println!(
        "try: a client of QUIC that trusts this certificate, as in heavy/tests/examples_quic.rs"
    );

    thread::scope(|scope| {
        for member in group {
            let config = config.clone();
            scope.spawn(|| work(member, config).expect("a runtime and an endpoint"));
        }
    });
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn work(member: Member<UdpSocket>, server: ServerConfig) -> io::Result<()> {
    let number = member.number() as u8;
    let mut config = EndpointConfig::default();
    config.cid_generator(move || Box::new(Numbered(number)));
    let socket = member.into_std();
    let endpoint = Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))?;
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            if let Err(error) = echo(incoming, number).await {
                eprintln!("cannot echo: {error}");
            }
        });
    }
    Ok(())
}

async fn echo(incoming: Incoming, number: u8) -> Result<(), Box<dyn Error>> {
    let who = format!("process {} member {number}: ", process::id());
    let connection = incoming.await?;
    while let Ok((mut answer, mut question)) = connection.accept_bi().await {
        let question = question.read_to_end(64 << 10).await?;
        answer.write_all(who.as_bytes()).await?;
        answer.write_all(&question).await?;
        answer.finish()?;
    }
    Ok(())
}

/// Connection ids of eight bytes: the number of the member, and chance.
struct Numbered(u8);

impl ConnectionIdGenerator for Numbered {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [self.0; 8];
        let random = ring::default_provider().secure_random.fill(&mut id[1..]);
        random.expect("the system has random bytes");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
