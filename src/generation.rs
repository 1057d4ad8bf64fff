use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::succession::Succession;
use crate::{Error, Promise};

/// One process of a server that is restarted without losing a connection.
///
/// [`Options::generation`](crate::Options::generation) opens its group beside that of the process
/// before it, which goes on serving. When this one's workers accept, [`take_over`](Self::take_over)
/// brings it everything that is new; the one before accepts what is under way, until nothing more
/// can come to it. Then its [`relieved`](Self::relieved) says so, and it finishes its connections
/// and ends. There is no process above the two, and no privilege is needed.
///
/// A server that is told should close its listener first: the graceful shutdown of hyper, and so
/// axum's, closes each connection from which it has read nothing, also where the request has
/// arrived. The directory `examples/graceful` has axum do it in this order.
///
/// The two find each other at an abstract UNIX address (unix(7)) whose name has the address of the
/// group and the user's number: so it is in the network namespace in which the port is, in no file
/// system, and gone with the last process. Each checks that the other is the same user. The older
/// lends the younger descriptors of its listeners, so that one of them decides. Wherever one of them
/// dies, what is lost is what that process held.
///
/// ```no_run
/// # #[cfg(all(target_os = "linux", feature = "tokio"))] {
/// use std::time::Duration;
/// use reuseport::{Options, Tokio};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
/// for member in group {
///     let listener = member.attach::<Tokio>()?;
///     let relieved = generation.relieved();
///     // tokio::spawn(serve(listener, relieved)): it closes the listener when it is relieved
/// }
/// generation.take_over(Duration::from_secs(64)).await?;
/// generation.relieved().await;
/// # Ok(())
/// # }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping it gives the takeover up, and no later process can take over"]
pub struct Generation(Arc<Succession>);

impl Generation {
    pub(crate) fn new(succession: Arc<Succession>) -> Self {
        Self(succession)
    }

    /// The process that serves until this one takes over; None where this is the first.
    #[must_use]
    pub fn predecessor(&self) -> Option<u32> {
        self.0.predecessor()
    }

    /// What its clients can count on when it takes over.
    #[must_use]
    pub fn promise(&self) -> Promise {
        self.0.promise()
    }

    /// Takes over everything that is new, and waits until the process before is empty.
    ///
    /// To be called when the workers accept: from this call on connections come to them. Returns how
    /// many requests the process before had still to accept when the deadline came or it died; they
    /// are lost. Then the next process can begin to take over this one. The first process has nothing
    /// to wait for. What is begun is carried out, also when the future is dropped.
    ///
    /// For UDP, 1 stands for any number of datagrams that nobody has read. Under
    /// [connection ids](crate::Steering::ConnectionIds) the process before keeps its flows until it
    /// closes its sockets, and only new ones come here; so that ends at once, and the next process
    /// cannot begin before.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where it has been called before. Where no
    /// thread can be started. What the kernel answers to the steering; the process before then goes
    /// on.
    pub fn take_over(&self, deadline: Duration) -> TakeOver {
        TakeOver(Some(Succession::take_over(&self.0, deadline)))
    }

    /// As [`take_over`](Self::take_over), and blocks.
    ///
    /// # Errors
    ///
    /// As [`take_over`](Self::take_over).
    pub fn take_over_blocking(&self, deadline: Duration) -> Result<u32, Error> {
        let outcome = Succession::take_over(&self.0, deadline);
        outcome.and_then(|succession| succession.taken.wait(Option::take))
    }

    /// Waits until the next process has taken over and nothing more can come to this one.
    ///
    /// From then on the listeners of async runtimes should be dropped, and whoever waits in a
    /// blocking accept(2) gets [`InvalidInput`](std::io::ErrorKind::InvalidInput). Where the next
    /// process has one member and this one several, one of them gets that some milliseconds before.
    /// Every worker can have a future of its own.
    ///
    /// Under [connection ids](crate::Steering::ConnectionIds) it is the time from which no new flow
    /// comes; the sockets stay open until the flows have ended.
    pub fn relieved(&self) -> Relieved {
        Relieved(Arc::clone(&self.0))
    }

    /// As [`relieved`](Self::relieved), and blocks.
    pub fn relieved_blocking(&self) {
        self.0.relieved.wait(|relieved| *relieved);
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The future of [`Generation::take_over`].
#[derive(Debug)]
#[must_use = "futures do nothing unless they are awaited, and the error is in this one"]
pub struct TakeOver(Option<Result<Arc<Succession>, Error>>);

impl Future for TakeOver {
    type Output = Result<u32, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.take() {
            Some(Ok(succession)) => {
                let taken = succession.taken.poll(context, Option::take);
                if taken.is_pending() {
                    self.0 = Some(Ok(succession));
                }
                taken
            }
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    }
}

/// The future of [`Generation::relieved`].
#[derive(Clone, Debug)]
#[must_use = "futures do nothing unless they are awaited"]
pub struct Relieved(Arc<Succession>);

impl Future for Relieved {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.relieved.poll(context, |relieved| *relieved)
    }
}
