//! HTTP/3: each request of a connection goes to a service of axum.

use std::error::Error;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use h3::server::{Connection, RequestResolver};
use quinn::Incoming;
use tower::ServiceExt;

type Quic = h3_quinn::Connection;

/// Answers every request of a connection, until the client closes it.
pub async fn serve(incoming: Incoming, app: Router) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut connection = Connection::new(Quic::new(incoming.await?)).await?;
    while let Some(request) = connection.accept().await? {
        tokio::spawn(answer(request, app.clone()));
    }
    Ok(())
}

async fn answer(
    request: RequestResolver<Quic, Bytes>,
    app: Router,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (request, mut stream) = request.resolve_request().await?;
    let answer = app.oneshot(request.map(|()| Body::empty())).await?;
    let (mut head, body) = answer.into_parts();
    // It means nothing to HTTP/3 (RFC 9114, section 4.2).
    head.headers.remove("connection");
    stream
        .send_response(axum::http::Response::from_parts(head, ()))
        .await?;
    stream.send_data(to_bytes(body, usize::MAX).await?).await?;
    stream.finish().await?;
    Ok(())
}
