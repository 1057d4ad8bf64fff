//! How a server's clients are told that another process serves.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Generation;
use super::core::Core;

/// Says whether a server's clients should come back to another process: for the answers on connections that
/// stay open.
///
/// A load balancer or a browser keeps a connection for its next request, and so stays with a process
/// that is about to end, until that closes the connection under it. So an HTTP/1 answer should carry
/// `Connection: close` from the moment when another process serves, and a loop of server-sent events or
/// WebSocket messages should say goodbye.
///
/// It is one flag in memory: asking costs nothing, and clones are cheap. With the feature `tower` it is a
/// layer too, which does the HTTP/1 part in axum, tonic, and every other server of tower services; HTTP/2
/// has a farewell of its own, GOAWAY, which the servers send when they are told to end. Frameworks with
/// request types of their own ask [`is_ending`](Self::is_ending): poem sets the header in `.after(..)`, and
/// actix-web, which drops that header, is told by `ConnectionType::Close`; the package `examples/servers` has
/// both.
///
/// ```no_run
/// # #[cfg(all(target_os = "linux", feature = "tokio", feature = "tower"))] {
/// use axum::{Router, routing::get};
/// use reuseport::{Serve, Tokio};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let (listener, generation) = Tokio::serve("[::]:8881")?;
/// let app = Router::new().route("/", get(|| async { "hello" }));
/// let app = app.layer(generation.farewell());
/// axum::serve(listener, app).with_graceful_shutdown(generation.shutdown()).await?;
/// # Ok(())
/// # }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Farewell(Arc<[Arc<Core>]>);

impl Farewell {
    /// Whether another process serves by now, or [`Generation::stop`] has been called.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{Serve, Std};
    ///
    /// let (listener, generation) = Std::serve("[::]:8881")?;
    /// let farewell = generation.farewell();
    /// for accepted in generation.incoming::<Std>(listener) {
    ///     let keep_alive = !farewell.is_ending();
    /// }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.0
            .iter()
            .any(|core| core.is_ending.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Farewell")
            .field("is_ending", &self.is_ending())
            .finish()
    }
}

impl Generation {
    /// The flag by which answers tell clients that another process serves. See [`Farewell`].
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{Serve, Std};
    ///
    /// let (listener, generation) = Std::serve("[::]:8881")?;
    /// let farewell = generation.farewell();
    /// assert!(!farewell.is_ending());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn farewell(&self) -> Farewell {
        Farewell(self.cores().cloned().collect())
    }
}
