//! Connections of QUIC whose client's address changes go on where connection ids choose the member,
//! and do not where the hash does.

#![cfg(target_os = "linux")]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::rustls::RootCertStore;
use quinn::rustls::crypto::ring;
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    Incoming, ServerConfig, TokioRuntime, TransportConfig,
};
use reuseport::{ConnectionIds, Options, Steering};
use tokio::net::UdpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::timeout;

const MEMBERS: usize = 4;
const CONNECTIONS: usize = 20;
const CHANGES: usize = 5;

/// A connection that hears nothing for so long is lost, on either side.
const IDLE: Duration = Duration::from_secs(4);

/// Longer than it takes until a connection is idle.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn connection_ids_keep_a_connection_whose_address_changes() {
    let lost = lost(Steering::ConnectionIds(ConnectionIds::quic()));
    assert_eq!(lost, 0, "of {CONNECTIONS}");
}

/// If nothing were lost here, then the test above would prove nothing.
#[test]
fn the_hash_loses_connections_whose_address_changes() {
    // All ports that follow have their member by chance once in 2^200.
    assert!(lost(Steering::Hash) > 0, "of {CONNECTIONS}");
}

/// How many connections get no answer any more after one of the changes.
fn lost(steering: Steering) -> usize {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let cert = own.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let mut config = ServerConfig::with_single_cert(vec![cert.clone()], key.into()).unwrap();
    config.transport_config(transport());

    let options = Options::new().steering(steering);
    let group = options.packet_group("127.0.0.1:0", MEMBERS).unwrap();
    let addr = group.local_addr();
    // Each on a thread of its own, that ends when its runtime is dropped.
    let _members: Vec<Runtime> = group
        .into_iter()
        .map(|member| {
            let number = member.number() as u8;
            let runtime = Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            runtime.spawn(serve(number, member.into_std(), config.clone()));
            runtime
        })
        .collect();

    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = client(cert);
        let connections: Vec<_> = (0..CONNECTIONS)
            .map(|_| tokio::spawn(goes_on(client.clone(), addr)))
            .collect();
        let mut lost = 0;
        let mut members = [0; MEMBERS];
        for connection in connections {
            let (member, went_on) = connection.await.unwrap();
            members[member] += 1;
            lost += usize::from(!went_on);
        }
        // All at one member by chance once in 2^38.
        assert!(members.iter().all(|&n| n < CONNECTIONS), "{members:?}");
        lost
    })
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IDLE.try_into().unwrap()));
    Arc::new(transport)
}

fn client(cert: CertificateDer<'static>) -> Endpoint {
    let mut roots = RootCertStore::empty();
    roots.add(cert).unwrap();
    let mut config = ClientConfig::with_root_certificates(roots.into()).unwrap();
    config.transport_config(transport());
    let mut client = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    client.set_default_client_config(config);
    client
}

async fn serve(number: u8, socket: std::net::UdpSocket, server: ServerConfig) {
    let mut config = EndpointConfig::default();
    config.cid_generator(move || Box::new(Numbered(number)));
    let endpoint = Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime)).unwrap();
    while let Some(incoming) = endpoint.accept().await {
        // A client that went away is counted where it did.
        tokio::spawn(async move { answer(incoming, number).await.ok() });
    }
}

async fn answer(incoming: Incoming, number: u8) -> io::Result<()> {
    let connection = incoming.await?;
    loop {
        let (mut answer, mut question) = connection.accept_bi().await?;
        question.read_to_end(9).await.map_err(io::Error::other)?;
        answer.write_all(&[number]).await?;
        answer.finish()?;
    }
}

/// Connection ids of a member.
struct Numbered(u8);

impl ConnectionIdGenerator for Numbered {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [self.0; 8];
        let random = ring::default_provider().secure_random;
        random.fill(&mut id[1..]).unwrap();
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The first member of a connection, and whether that answers after every change.
async fn goes_on(client: Endpoint, server: SocketAddr) -> (usize, bool) {
    let relay = Relay::start(server).await;
    let connecting = client.connect(relay.addr, "localhost").unwrap();
    let connection = timeout(PATIENCE, connecting).await.unwrap().unwrap();
    let member = ask(&connection).await.unwrap();
    for _ in 0..CHANGES {
        relay.change().await;
        match ask(&connection).await {
            Ok(same) => assert_eq!(same, member, "only that one knows the connection"),
            Err(_) => return (member.into(), false),
        }
    }
    (member.into(), true)
}

/// The member that answers.
async fn ask(connection: &Connection) -> io::Result<u8> {
    let exchange = async {
        let (mut question, mut answer) = connection.open_bi().await?;
        question.write_all(b"who?").await?;
        question.finish()?;
        let mut number = [0];
        let read = answer.read_exact(&mut number).await;
        read.map_err(io::Error::other)?;
        Ok(number[0])
    };
    timeout(PATIENCE, exchange).await?
}

/// What stands between a client and the server, as a router that translates addresses does.
struct Relay {
    /// Where the client finds it.
    addr: SocketAddr,
    /// The socket whose port the server sees.
    back: watch::Sender<Arc<UdpSocket>>,
}

impl Relay {
    async fn start(server: SocketAddr) -> Self {
        let front = Arc::new(Self::bind().await);
        let addr = front.local_addr().unwrap();
        let (back, mut current) = watch::channel(Arc::new(Self::bind().await));
        tokio::spawn(async move {
            let mut client = None;
            let (mut question, mut answer) = (vec![0; 2048], vec![0; 2048]);
            loop {
                let back = current.borrow_and_update().clone();
                tokio::select! {
                    biased;
                    // The old socket is closed: what the server still sends to it is lost.
                    changed = current.changed() => if changed.is_err() {
                        return;
                    },
                    received = front.recv_from(&mut question) => {
                        let (len, from) = received.unwrap();
                        client = Some(from);
                        back.send_to(&question[..len], server).await.unwrap();
                    }
                    received = back.recv_from(&mut answer) => {
                        let (len, _) = received.unwrap();
                        if let Some(client) = client {
                            front.send_to(&answer[..len], client).await.unwrap();
                        }
                    }
                }
            }
        });
        Self { addr, back }
    }

    /// Goes on with another port; nothing that goes through it afterwards has the old one.
    async fn change(&self) {
        let old = self.back.send_replace(Arc::new(Self::bind().await));
        // While it is open, nobody else can have its port.
        drop(old);
    }

    async fn bind() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").await.unwrap()
    }
}
