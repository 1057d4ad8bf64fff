//! axum's graceful shutdown, which hangs up on no client: for `scale` and `fdstore`.

use std::net::SocketAddr;
use std::{future, io, pin::pin, time::Duration};

use axum::http::{HeaderValue, header::CONNECTION};
use axum::middleware::map_response;
use axum::response::Response;
use axum::{Router, serve::Listener};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, Shared, select};
use tokio::net::{TcpListener, TcpStream};

/// How long a client that has connected may take to ask: one whose SYN or request was lost sends it again
/// after one second, and after three.
const PATIENCE: Duration = Duration::from_secs(5);

/// Accepts until `left`, and returns when all connections have ended.
///
/// axum stops accepting at its signal, and at the same time hyper closes every connection from which
/// it has read nothing, also one whose request has arrived. So accepting ends first here. Clients that
/// keep their connection for the next request are told from `left` on that this answer is the last.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    left: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let left = left.boxed().shared();
    let ending = left.clone();
    let app = app.layer(map_response(move |mut response: Response| {
        if ending.peek().is_some() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        future::ready(response)
    }));
    let accepting = Accepting(Some(listener), left.clone());
    let signal = left.then(|()| tokio::time::sleep(PATIENCE));
    axum::serve(accepting, app)
        .with_graceful_shutdown(signal)
        .await
}

/// A listener that is closed when it has left.
struct Accepting(Option<TcpListener>, Shared<BoxFuture<'static, ()>>);

impl Listener for Accepting {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        if let Some(listener) = &mut self.0 {
            let accepting = pin!(Listener::accept(listener));
            // The accepting first: what is there is taken.
            if let Either::Left((accepted, _)) = select(accepting, &mut self.1).await {
                return accepted;
            }
        }
        self.0 = None;
        future::pending().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let listener = self.0.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        listener.local_addr()
    }
}
