//! axum's graceful shutdown, which hangs up on nobody: for `restart`, `scale` and `fdstore`.

use std::net::SocketAddr;
use std::{future, io, pin::pin, time::Duration};

use axum::{Router, serve::Listener};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, Shared, select};
use tokio::net::{TcpListener, TcpStream};

/// How long who has connected may take to ask.
const PATIENCE: Duration = Duration::from_secs(2);

/// Accepts until `left`, and returns when all connections have ended.
///
/// axum stops accepting at its signal, and at the same time hyper closes every connection from which
/// it has read nothing, also one whose request has arrived. So accepting ends first here.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    left: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let left = left.boxed().shared();
    let door = Door(Some(listener), left.clone());
    let signal = left.then(|()| tokio::time::sleep(PATIENCE));
    axum::serve(door, app).with_graceful_shutdown(signal).await
}

/// A listener that is closed when it has left.
struct Door(Option<TcpListener>, Shared<BoxFuture<'static, ()>>);

impl Listener for Door {
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
