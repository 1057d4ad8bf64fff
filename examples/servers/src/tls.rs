//! A certificate, for TLS over TCP and for QUIC.

use std::error::Error;
use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// For HTTPS, and for HTTP/3; a new certificate for each process.
pub fn config() -> Result<(TlsAcceptor, quinn::ServerConfig), Box<dyn Error>> {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (key, certs) = (
        own.signing_key.serialize_der(),
        vec![own.cert.der().clone()],
    );
    let mut tcp = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certs, key.try_into()?)?;
    let mut quic = tcp.clone();
    tcp.alpn_protocols = vec![b"http/1.1".to_vec()];
    quic.alpn_protocols = vec![b"h3".to_vec()];
    let quic = QuicServerConfig::try_from(quic)?;
    Ok((
        TlsAcceptor::from(Arc::new(tcp)),
        quinn::ServerConfig::with_crypto(Arc::new(quic)),
    ))
}
