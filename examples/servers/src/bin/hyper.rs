//! hyper with a loop of one's own: `cargo run --bin hyper -- localhost:8881`, and again in another terminal.

use std::convert::Infallible;
use std::io;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use reuseport::{Serve, Tokio};
use tower::{Layer, service_fn};

async fn who(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    Ok(Response::new(servers::who()))
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let (listener, generation) = Tokio::serve(servers::addr())?; // instead of TcpListener::bind
    servers::stop_on_sigterm(&generation); // SIGTERM

    let service = generation.farewell().layer(service_fn(who)); // reuseport 1
    let graceful = GracefulShutdown::new();
    let mut incoming = generation.incoming::<Tokio>(listener); // reuseport 2
    while let Some(accepted) = incoming.accept().await {
        let Ok((stream, _)) = accepted else { continue };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(service.clone()),
            );
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
    generation.shutdown().await; // reuseport 3: connections that have not asked yet have time
    graceful.shutdown().await;
    generation.outcome()?; // reuseport 4
    Ok(())
}
