//! HTTP on one port, HTTPS and HTTP/3 on another, as one server: `cargo run --bin site -- localhost:8880 localhost:8443`,
//! and again in another terminal.
//!
//! All three pass to the next process together, or none does. A connection of HTTP/3 goes on with the process that it
//! began with until the client closes it.

use std::error::Error;
use std::io;
use std::sync::Arc;

use axum::{Router, routing::get};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use quinn::{Endpoint, EndpointConfig, TokioRuntime};
use reuseport::{ConnectionIds, Generation, Options, Steering, Tokio};
use servers::ids::Numbered;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [http, https] = servers::two_addrs();
    let tcp = Options::new();
    let quic = Options::new().steering(Steering::ConnectionIds(ConnectionIds::quic()));
    let wanted = (
        tcp.want(http, 1),
        tcp.want(&https, 1),
        quic.want_packet(&https, 1),
    );
    let ((http, https, quic), generation) = Generation::open(wanted)?;
    servers::stop_on_sigterm(&generation);

    let app = Router::new()
        .route("/", get(|| async { servers::who() }))
        .layer(generation.farewell());
    let (tls, quic_config) = servers::tls::config()?;
    let http = http.into_iter().next().expect("a group of one member");
    let https = https.into_iter().next().expect("a group of one member");
    let quic = quic.into_iter().next().expect("a group of one member");

    let mut config = EndpointConfig::default();
    let number = quic.number() as u8;
    config.cid_generator(move || Box::new(Numbered(number)));
    let endpoint = Endpoint::new(
        config,
        Some(quic_config),
        quic.into_std(),
        Arc::new(TokioRuntime),
    )?;

    let shutdown = generation.shutdown();
    let http = axum::serve(http.attach::<Tokio>()?, app.clone()).with_graceful_shutdown(shutdown);
    tokio::try_join!(
        async { http.await },
        serve_https(https.attach::<Tokio>()?, tls, app.clone(), &generation),
        serve_h3(endpoint, app, &generation),
    )?;
    generation.outcome()?;
    Ok(())
}

async fn serve_https(
    listener: TcpListener,
    tls: TlsAcceptor,
    app: Router,
    generation: &Generation,
) -> io::Result<()> {
    let graceful = GracefulShutdown::new();
    let mut incoming = generation.incoming::<Tokio>(listener);
    while let Some(accepted) = incoming.accept().await {
        let Ok((stream, _)) = accepted else { continue };
        let (tls, app, watcher) = (tls.clone(), app.clone(), graceful.watcher());
        tokio::spawn(async move {
            // A client that does not finish its handshake is no error of the server's.
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let service = TowerToHyperService::new(app);
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = watcher.watch(connection).await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
    generation.shutdown().await; // Connections that have not asked yet have time.
    graceful.shutdown().await;
    Ok(())
}

async fn serve_h3(endpoint: Endpoint, app: Router, generation: &Generation) -> io::Result<()> {
    let mut shutdown = generation.shutdown();
    loop {
        tokio::select! {
            biased;
            Some(incoming) = endpoint.accept() => {
                let app = app.clone();
                tokio::spawn(async move {
                    // The client closes the connection, which is an error for h3.
                    let _ = servers::h3::serve(incoming, app).await;
                });
            }
            () = &mut shutdown => break,
        }
    }
    endpoint.set_server_config(None);
    endpoint.wait_idle().await;
    Ok(())
}
