//! Accepting that ends when the server is to end, for loops of the caller's own.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
#[cfg(feature = "std")]
use std::time::Duration;

use super::core::Core;
use super::wait::Wait;
use super::{Generation, Relieved};
use crate::runtime::Net;
#[cfg(feature = "std")]
use crate::runtime::deadline;
#[cfg(feature = "std")]
use crate::sys::wait::Bell;
use crate::sys::{self, Kind};

/// The connections that come to a listener until its process is relieved or has [stopped](Generation::stop).
///
/// The first [`accept`](Self::accept) takes over from the process that serves. When nothing more can come it
/// returns `None`, and the listener is closed. Nothing that came is left in the queue. Then the server ends
/// its connections, and itself.
///
/// With [one queue](Generation#one-queue) it ends as soon as another process has taken over, whose queue it is
/// from then on.
///
/// hyper hangs up on a connection that has not asked yet when it is told to end. So await
/// [`Generation::shutdown`] between the `None` and hyper-util's `GracefulShutdown::shutdown`.
///
/// ```no_run
/// # #[cfg(all(target_os = "linux", feature = "smol"))] {
/// use reuseport::{Net, Serve, Smol};
///
/// smol::block_on(async {
///     let (listener, generation) = Smol::serve("[::]:8881")?;
///     let mut incoming = generation.incoming::<Smol>(listener);
///     while let Some(accepted) = incoming.accept().await {
///         let Ok((stream, _)) = accepted else { continue };
///         smol::spawn(async move { Smol::write_all(&stream, b"hello\n").await }).detach();
///     }
///     generation.outcome()?;
///     Ok::<(), std::io::Error>(())
/// })?;
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// What takes a stream gets one by futures-util's `unfold`:
///
/// ```
/// # use futures_util::stream::{Stream, unfold};
/// # use reuseport::{Incoming, Net};
/// # type Accepted<R> = std::io::Result<(<R as reuseport::ReusePort>::TcpStream, std::net::SocketAddr)>;
/// fn stream<R: Net>(incoming: Incoming<R>) -> impl Stream<Item = Accepted<R>> {
///     unfold(incoming, |mut incoming| async move {
///         incoming.accept().await.map(|accepted| (accepted, incoming))
///     })
/// }
/// ```
pub struct Incoming<R: Net> {
    /// None when nothing more comes.
    listener: Option<R::TcpListener>,
    /// That of its address.
    core: Arc<Core>,
    all: Vec<Arc<Core>>,
    relieved: Relieved,
}

impl Generation {
    /// The connections of one listener, until this process is to end: see [`Incoming`].
    ///
    /// Each worker has one, for the listener of its member.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{Serve, Std};
    ///
    /// let (listener, generation) = Std::serve("[::]:8881")?;
    /// for accepted in generation.incoming::<Std>(listener) { /* serve it */ }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn incoming<R: Net>(&self, listener: R::TcpListener) -> Incoming<R> {
        let addr = sys::local_addr(&listener).ok();
        let is_its = |core: &&Arc<Core>| core.kind == Kind::Tcp && Some(core.addr) == addr;
        let core = self.started().find(is_its).unwrap_or(self.first());
        Incoming {
            listener: Some(listener),
            core: Arc::clone(core),
            all: self.cores().cloned().collect(),
            relieved: Relieved(Wait::new(std::iter::once(core), |core| &core.relieved)),
        }
    }
}

impl<R: Net> Incoming<R> {
    /// Waits for the next connection; `None` when no more can come.
    ///
    /// With [`Std`](crate::Std) it blocks, as [`Net::accept`] does. Dropping the future loses no
    /// connection.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "smol"))] {
    /// use reuseport::{Serve, Smol};
    ///
    /// # async fn serve() -> std::io::Result<()> {
    /// let (listener, generation) = Smol::serve("[::]:8881")?;
    /// let mut incoming = generation.incoming::<Smol>(listener);
    /// while let Some(accepted) = incoming.accept().await { /* serve it */ }
    /// # Ok(())
    /// # }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As accept(2); the listener goes on after any of them. When the process has no descriptors left, wait
    /// a little and accept again.
    pub async fn accept(&mut self) -> Option<io::Result<(R::TcpStream, SocketAddr)>> {
        self.all.iter().for_each(Core::take_over_at_once);
        let accepted = match &self.core.ends {
            #[cfg(feature = "std")]
            Some(ends) if !R::NONBLOCKING => {
                accept_until::<R>(self.listener.as_ref()?, ends, &self.core).await
            }
            ends => {
                let is_shared = ends.is_some();
                let mut accept = pin!(R::accept(self.listener.as_ref()?));
                let mut relieved = Pin::new(&mut self.relieved);
                poll_fn(|context| {
                    // What comes to the one queue is from then on the next process's.
                    if is_shared && relieved.as_mut().poll(context).is_ready() {
                        return Poll::Ready(None);
                    }
                    // What has come to a queue of its own is accepted before the end is.
                    match accept.as_mut().poll(context) {
                        Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                        Poll::Pending => relieved.as_mut().poll(context).map(|()| None),
                    }
                })
                .await
            }
        };
        match accepted {
            // It was taken out of the group, which wakes a worker that waits in the kernel.
            Some(Err(_)) if !self.listens() => self.listener = None,
            Some(accepted) => return Some(accepted),
            None => self.listener = None,
        }
        None
    }

    fn listens(&self) -> bool {
        let listener = self.listener.as_ref();
        listener.is_none_or(|listener| sys::is_listening(sys::borrow(listener)).unwrap_or(true))
    }

    /// The listener, which accepts on.
    ///
    /// `None` when nothing more comes.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{Serve, Std};
    ///
    /// let (listener, generation) = Std::serve("[::]:8881")?;
    /// let incoming = generation.incoming::<Std>(listener);
    /// if let Some(listener) = incoming.get_ref() {
    ///     println!("{} wait", reuseport::queue(listener)?.waiting);
    /// }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn get_ref(&self) -> Option<&R::TcpListener> {
        self.listener.as_ref()
    }
}

/// Accepts from a queue that other processes have too, and on which nothing can end the waiting.
#[cfg(feature = "std")]
async fn accept_until<R: Net>(
    listener: &R::TcpListener,
    ends: &Bell,
    core: &Core,
) -> Option<io::Result<(R::TcpStream, SocketAddr)>> {
    loop {
        let fds = [sys::borrow(ends), sys::borrow(listener)];
        let ready = sys::wait::poll(&fds, deadline::current());
        match ready.as_deref() {
            // The bell rings a little after the rest of the process is told, and only ends the waiting.
            Ok([true, _]) => return None,
            Ok(_) if core.relieved.has() => return None,
            Ok([_, true]) => {}
            Ok(_) => return Some(deadline::ended(Err(io::ErrorKind::TimedOut.into()))),
            Err(error) => return Some(Err(crate::error::copy(error))),
        }
        // Another may have taken it meanwhile.
        match deadline::within(Duration::ZERO, R::accept(listener)).await {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            accepted => return Some(accepted),
        }
    }
}

impl<R: Net> fmt::Debug for Incoming<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("is_open", &self.listener.is_some())
            .finish_non_exhaustive()
    }
}
