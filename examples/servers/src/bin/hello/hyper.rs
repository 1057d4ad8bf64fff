use std::convert::Infallible;
use std::io;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use reuseport::{ReusePort, Tokio};

async fn who(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    Ok(Response::new(servers::who()))
}

#[tokio::main]
pub(crate) async fn main() -> io::Result<()> {
    let listener = Tokio::listen(servers::addr())?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service_fn(who));
            if let Err(error) = connection.await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}
