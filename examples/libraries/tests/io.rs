//! What is written for futures-io and hyper, over a connection of each async runtime: `Io`.

#![cfg(target_os = "linux")]

#[macro_use]
mod util;

use std::sync::Arc;

use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use futures_rustls::rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use futures_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use futures_rustls::{TlsAcceptor, TlsConnector};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use reuseport::{Io, local_addr};
use util::Main;

/// With `Std` both directions at once do not work.
macro_rules! on_async_runtimes {
    ($($body:ident)*) => {
        $(mod $body { async_tests!($body); })*
    };
}

on_async_runtimes!(a_tls_stream a_server_of_hyper futures_io_on_one_connection);

/// More than all buffers between the two hold.
const LEN: usize = 4 << 20;

/// Both ends of a connection.
async fn pair<R: Main>() -> (R::TcpStream, R::TcpStream) {
    let listener = R::listen("127.0.0.1:0").unwrap();
    let client = R::connect(local_addr(&listener).unwrap()).await.unwrap();
    let (server, _) = R::accept(&listener).await.unwrap();
    (server, client)
}

fn a_tls_stream<R: Main>() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let server = ServerConfig::builder().with_no_client_auth();
    let server = server
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    R::block_on(async {
        let (accepted, connected) = pair::<R>().await;
        R::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(server));
            let stream = acceptor.accept(Io::<R>::new(accepted)).await.unwrap();
            // Both directions at once.
            let (mut reads, mut writes) = futures_lite::io::split(stream);
            futures_lite::io::copy(&mut reads, &mut writes)
                .await
                .unwrap();
            writes.close().await.unwrap();
        })
        .unwrap();
        let connector = TlsConnector::from(Arc::new(client));
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector
            .connect(name, Io::<R>::new(connected))
            .await
            .unwrap();
        let (mut reads, mut writes) = futures_lite::io::split(stream);
        let sent: Vec<u8> = (0..LEN).map(|n| n as u8).collect();
        let mut received = Vec::new();
        let write = async {
            writes.write_all(&sent).await?;
            writes.close().await
        };
        futures_lite::future::try_zip(write, reads.read_to_end(&mut received))
            .await
            .unwrap();
        assert!(received == sent);
    });
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    Ok(Response::new(Full::new(body)))
}

fn a_server_of_hyper<R: Main>() {
    R::block_on(async {
        let (accepted, connected) = pair::<R>().await;
        R::spawn(async move {
            let service = service_fn(echo);
            let http = server::conn::http1::Builder::new();
            http.serve_connection(Io::<R>::new(accepted), service)
                .await
                .unwrap();
        })
        .unwrap();
        let client = client::conn::http1::handshake(Io::<R>::new(connected));
        let (mut sender, connection) = client.await.unwrap();
        R::spawn(async move { connection.await.unwrap() }).unwrap();
        for len in [0, 1, LEN] {
            sender.ready().await.unwrap();
            let request = Request::post("/")
                .body(Full::new(Bytes::from(vec![7; len])))
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(body.len() == len && body.iter().all(|byte| *byte == 7));
        }
    });
}

fn futures_io_on_one_connection<R: Main>() {
    R::block_on(async {
        let (accepted, connected) = pair::<R>().await;
        let mut accepted = Io::<R>::new(accepted);
        let mut client = Io::<R>::new(connected);
        client.write_all(b"hello").await.unwrap();
        client.flush().await.unwrap();
        client.close().await.unwrap();
        let mut text = String::new();
        accepted.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        // Closed was one half, and the other still reads.
        accepted.write_all(b"and back").await.unwrap();
        let addr = R::peer_addr(accepted.get_ref()).unwrap();
        drop(accepted.into_inner());
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "and back");
        assert_eq!(addr, local_addr(client.get_ref()).unwrap());
    });
}

#[allow(dead_code, reason = "it only has to compile")]
fn it_can_be_sent<R: Main>(io: Io<R>) {
    fn assert<T: Send + Sync + Unpin + std::fmt::Debug + 'static>(_: T) {}
    assert(io);
}
