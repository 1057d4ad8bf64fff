//! How a server is told to end: the one future for every framework, and how it stops without a successor.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::core::Core;
use super::wait::Wait;
use super::{Generation, both};
use crate::error::Error;
use crate::group::Drained;

/// A future that takes over when it is first polled, and is ready when the server is to end.
///
/// It is what a framework's graceful shutdown wants: axum's `with_graceful_shutdown`, tonic's
/// `serve_with_incoming_shutdown`, actix-web's `shutdown_signal`, and so on. Frameworks poll it when
/// their loop accepts, which is the moment to take over.
///
/// It is ready when another process has taken over, or [`Generation::stop`] has been called; when nothing
/// more can come to this process; and when fresh connections have had five seconds to ask, or the
/// [grace](Generation::set_grace) that was set. The framework keeps its listener until then, and sees no
/// error: no new client comes to it, also where yet another process starts meanwhile, or the one that has
/// taken over is stopped. Where one of those that follow has a shorter grace, or dies, accept(2) may answer
/// [`InvalidInput`](std::io::ErrorKind::InvalidInput) some time earlier: so a loop of one's own looks at
/// this future before it accepts again, as [`Incoming`](crate::Incoming) does. hyper, and what is built upon
/// it, closes a connection from which it has read nothing when it is told to end, also where the request
/// has arrived; that is what the grace is for.
///
/// With [one queue](Generation#one-queue) the framework goes on accepting until then: give it an
/// [`Incoming`](crate::Incoming) instead of the listener.
///
/// Where the takeover is refused, or another process has superseded this one, the future is ready too:
/// then the server ends without having served, and [`Generation::outcome`] says why.
///
/// Clones are independent: every worker can have one. Dropping one ends nothing.
///
/// ```no_run
/// # #[cfg(all(target_os = "linux", feature = "tokio"))] {
/// use axum::{Router, routing::get};
/// use reuseport::{Serve, Tokio};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let (listener, generation) = Tokio::serve("[::]:8881")?;
/// let app = Router::new().route("/", get(|| async { "hello" }));
/// axum::serve(listener, app).with_graceful_shutdown(generation.shutdown()).await?;
/// generation.outcome()?;
/// # Ok(())
/// # }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "futures do nothing unless they are awaited"]
#[derive(Clone)]
pub struct Shutdown(Wait<()>);

impl Future for Shutdown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.cores().for_each(Core::take_over_at_once);
        self.0.poll(context, (), |(), ()| ())
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").finish_non_exhaustive()
    }
}

impl Generation {
    /// The future that tells a server when to end; its first poll takes over. See [`Shutdown`].
    ///
    /// A server that has no such hook calls [`take_over`](Self::take_over) when it accepts, and awaits
    /// [`relieved`](Self::relieved) beside its loop.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "smol"))] {
    /// use reuseport::{Serve, Smol};
    ///
    /// let (listener, generation) = Smol::serve("[::]:8881")?;
    /// smol::block_on(generation.shutdown());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn shutdown(&self) -> Shutdown {
        Shutdown(Wait::new(self.started(), |core| &core.shutdown))
    }

    /// Ends this process's serving without a successor, and loses nothing: what SIGTERM should do.
    ///
    /// From this call on new clients are refused at once, so that a load balancer goes elsewhere. Every
    /// handshake that is under way, and every connection in a queue, is still accepted by the server; when
    /// there is none left, or ten seconds are over, [`relieved`](Self::relieved) is ready, and after the
    /// [grace](Self::set_grace) [`shutdown`](Self::shutdown). Ten seconds are enough for a client of whose
    /// handshake three packets were lost; [`set_timeout`](Self::set_timeout) sets others. Only under a flood
    /// for which the kernel turns SYN cookies on (tcp(7)) is a handshake lost that is half done, because the
    /// kernel does not remember it.
    ///
    /// A process that is about to take over gets what is new from this call on. One that has not taken over
    /// gives up, and the predecessor goes on; if it has a [share](Self::take_share), it accepts what has come of that
    /// first. One that is taking over does that first.
    /// What [`restart`](Self::restart) has started is killed, unless it has a share by then, or is taking over.
    ///
    /// With [one queue](Generation#one-queue) it leaves the queue to a successor that has opened it. Where the
    /// system cannot hide a listener (off Linux), new clients come until the listener is closed.
    ///
    /// For UDP nothing is refused: a datagram has no handshake. The sockets receive until they are closed,
    /// and the futures are ready when they have nothing for a moment.
    ///
    /// It returns at once. Calling it again does nothing.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "tokio"))] {
    /// use reuseport::{Serve, Tokio};
    /// use tokio::signal::unix::{SignalKind, signal};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let (listener, generation) = Tokio::serve("[::]:8881")?;
    /// let mut terminate = signal(SignalKind::terminate())?;
    /// let stops = generation.clone();
    /// tokio::spawn(async move {
    ///     terminate.recv().await;
    ///     stops.stop();
    /// });
    /// # Ok(())
    /// # }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stop(&self) {
        self.cores().for_each(Core::stop);
    }

    /// How it went, for a server that has ended.
    ///
    /// [`Drained::unaccepted`] counts the connections that this process had to accept and did not, before
    /// it was relieved or had stopped: it is 0 unless the server was too slow. While it serves, it is 0 too.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{Serve, Std};
    ///
    /// let (listener, generation) = Std::serve("[::]:8881")?;
    /// for accepted in generation.incoming::<Std>(listener) { /* serve it */ }
    /// let left = generation.outcome()?;
    /// assert!(left.is_empty(), "{} connections were not accepted", left.unaccepted);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What [`take_over`](Self::take_over) answers, where [`shutdown`](Self::shutdown) has begun it.
    pub fn outcome(&self) -> Result<Drained, Error> {
        let all = self.cores().map(|core| core.outcome());
        all.fold(Ok(Drained::default()), both)
    }

    /// How long fresh connections have for their first request when nothing more comes: five seconds
    /// unless it is set.
    ///
    /// [`shutdown`](Self::shutdown) is ready after that. Ten seconds after it was relieved a process loses
    /// its listeners, so that a longer grace gives a framework that has not closed them an error of
    /// accept(2).
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use std::time::Duration;
    /// use reuseport::{Serve, Std};
    ///
    /// let (listener, generation) = Std::serve("[::]:8881")?;
    /// generation.set_grace(Duration::from_secs(1));
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_grace(&self, grace: Duration) {
        self.cores().for_each(|core| core.settings().grace = grace);
    }

    /// How long handshakes that are under way are waited for, and the server's accepting: 64 seconds in a
    /// takeover that [`shutdown`](Self::shutdown) begins, and ten seconds after [`stop`](Self::stop), unless
    /// it is set.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use std::time::Duration;
    /// use reuseport::{Serve, Std};
    ///
    /// let (listener, generation) = Std::serve("[::]:8881")?;
    /// generation.set_timeout(Duration::from_secs(3));
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_timeout(&self, timeout: Duration) {
        self.cores()
            .for_each(|core| core.settings().timeout = Some(timeout));
    }
}
