//! Requests over QUIC, of which each is a stream. A kept connection goes on when its server is replaced.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::Request;
use hyper::body::Buf;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use quinn::rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use quinn::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use quinn::rustls::{self, DigitallySignedStruct, SignatureScheme};
use quinn::{ClientConfig, Connection, Endpoint, TransportConfig};
use tokio::time::sleep;

use crate::form::Kind;
use crate::loss::Failure;

type Requests = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

/// How often a connection is asked after its server was replaced, before it ends.
const GOES_ON: usize = 20;

#[derive(Default)]
pub(crate) struct Session {
    is_h3: bool,
    endpoint: Option<Endpoint>,
    kept: Option<Kept>,
}

/// A connection that goes on.
struct Kept {
    connection: Connection,
    /// Of HTTP/3.
    requests: Option<Requests>,
    /// Who answered first: only that process knows the connection.
    first: Option<String>,
    /// How many processes had answered when it began.
    processes: usize,
    /// How often it was asked since there are more.
    asked: usize,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn of_h3() -> Self {
        Self {
            is_h3: true,
            ..Self::default()
        }
    }

    pub(crate) async fn ask(
        &mut self,
        kind: Kind,
        addr: SocketAddr,
        soon: Duration,
        processes: usize,
    ) -> Result<String, Failure> {
        let mut kept = match self.kept.take() {
            Some(kept) => kept,
            None => {
                let connection = self.connect(addr, soon).await?;
                Kept {
                    requests: match self.is_h3 {
                        true => Some(requests(connection.clone()).await?),
                        false => None,
                    },
                    connection,
                    first: None,
                    processes,
                    asked: 0,
                }
            }
        };
        if kind == Kind::Slow {
            sleep(Kind::SLOW).await;
        }
        let answer = match &mut kept.requests {
            Some(requests) => get(requests).await?,
            None => {
                let (mut question, mut answer) = kept.connection.open_bi().await?;
                question.write_all(b"who?").await?;
                question.finish()?;
                String::from_utf8(answer.read_to_end(64).await?)?
            }
        };

        let first = kept.first.get_or_insert_with(|| answer.clone());
        if *first != answer {
            return Err(format!("{answer} answers on a connection of {first}").into());
        }
        kept.asked += usize::from(processes > kept.processes);
        if kind.is_kept() && kept.asked < GOES_ON {
            self.kept = Some(kept);
        } else {
            kept.connection.close(0_u8.into(), b"");
        }
        Ok(answer)
    }

    async fn connect(&mut self, addr: SocketAddr, soon: Duration) -> Result<Connection, Failure> {
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint,
            None => {
                let mut endpoint = Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into())?;
                endpoint.set_default_client_config(config(soon, self.is_h3)?);
                self.endpoint.insert(endpoint)
            }
        };
        Ok(endpoint.connect(addr, "localhost")?.await?)
    }

    /// Says goodbye, so that the server does not wait.
    pub(crate) async fn ends(self) {
        drop(self.kept);
        if let Some(endpoint) = self.endpoint {
            endpoint.wait_idle().await;
        }
    }
}

/// A connection of HTTP/3, which goes on until it is closed.
async fn requests(connection: Connection) -> Result<Requests, Failure> {
    let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
    tokio::spawn(async move { poll_fn(|context| driver.poll_close(context)).await });
    Ok(requests)
}

async fn get(requests: &mut Requests) -> Result<String, Failure> {
    let request = Request::get("https://localhost/").body(())?;
    let mut stream = requests.send_request(request).await?;
    stream.finish().await?;
    let head = stream.recv_response().await?;
    if head.status() != 200 {
        return Err(format!("answered {}", head.status()).into());
    }
    let mut body = Vec::new();
    while let Some(part) = stream.recv_data().await? {
        body.extend_from_slice(part.chunk());
    }
    Ok(String::from_utf8(body)?)
}

fn config(soon: Duration, is_h3: bool) -> Result<ClientConfig, Failure> {
    let mut tls = tls()?;
    if is_h3 {
        tls.alpn_protocols = vec![b"h3".to_vec()];
    }
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some((soon / 2).try_into()?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// What a client knows of TLS: that every certificate is good.
pub(crate) fn tls() -> Result<rustls::ClientConfig, Failure> {
    let provider = Arc::new(ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    tls.resumption = rustls::client::Resumption::disabled();
    Ok(tls)
}

/// Takes every certificate: each process has another.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
