//! A part of what is new for the next process, before it takes over.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::Generation;
use super::core::{Command, Core};
use crate::error::Error;
use crate::group::{Key, Signal};
use crate::trace;

impl Generation {
    /// Brings this process that part of what is new, from 0 to 1, while the predecessor serves the rest.
    ///
    /// So a new version is tried with few clients before [`take_over`](Self::take_over): a *canary*. To be called
    /// when the workers accept, and again whenever the part is to be another. Each new connection is given to this
    /// process by chance, and its members are alike; a connection stays where it is. No connection is lost by it,
    /// and none by taking over from any part.
    ///
    /// When this process [stops](Self::stop), it gives its part back first, and accepts what is under way to it. So a
    /// new version that finds itself unfit goes back by itself; it has to stop also where this returns an error, so that
    /// its part does not go to listeners at which nothing accepts. If it dies, what its members hold is lost, with what
    /// comes to them in the next milliseconds, and the predecessor gets everything again. A member that is closed gets
    /// nothing more after a tenth of a second. If the predecessor dies or stops, this process gets everything.
    /// Dropped, the generation gives the part back too, but what is still in the queues of its members is lost when
    /// they are closed.
    ///
    /// From the first part on this process is not superseded: another that starts waits until this one has taken
    /// over or ended, and gives up after 75 seconds. A `part` of 0 gives everything back to the predecessor, and this
    /// process can ask again. The first poll of [`shutdown`](Self::shutdown) takes over, so it belongs behind the
    /// last part.
    ///
    /// A UDP datagram does not tell whether its flow is new. Under [connection ids](crate::Steering::ConnectionIds) a
    /// flow stays with its process all the same, and `part` counts for new ones. Otherwise a hash of the client's
    /// address and port decides: a flow stays as long as the part does, and when the part changes, so many flows move
    /// as it has changed by.
    ///
    /// What is returned is the part that this process has from now on: `part`, or 1 where there is no predecessor
    /// left. Of [several addresses](Self::open) it has that part of each, and the smallest is returned. What is begun
    /// is carried out, also when the future is dropped.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "tokio"))] {
    /// use std::time::Duration;
    /// use axum::{Router, routing::get};
    /// use reuseport::{Generation, Serve, Tokio};
    ///
    /// /// Whether the new version may have more.
    /// fn is_healthy() -> bool { true }
    ///
    /// async fn try_out(generation: &Generation) -> std::io::Result<()> {
    ///     for part in [0.01, 0.1, 0.5] {
    ///         if generation.take_share(part).await? == 1.0 {
    ///             break;
    ///         }
    ///         // A minute, or until it is told to stop.
    ///         let _ = tokio::time::timeout(Duration::from_secs(60), generation.relieved()).await;
    ///         if !is_healthy() {
    ///             return Err(std::io::Error::other("this version is unfit"));
    ///         }
    ///     }
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let (listener, generation) = Tokio::serve("[::]:8881")?;
    /// let app = Router::new().route("/", get(|| async { "hello" }));
    /// let canary = generation.clone();
    /// let ends = async move {
    ///     if let Err(error) = try_out(&canary).await {
    ///         eprintln!("{error}");
    ///         canary.stop();
    ///     }
    ///     canary.shutdown().await;
    /// };
    /// axum::serve(listener, app).with_graceful_shutdown(ends).await?;
    /// # Ok(())
    /// # }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a `part` that is less than 0, more than 1 or no number.
    /// [`Unsupported`](io::ErrorKind::Unsupported) with [one queue](Self#one-queue), of which the workers take what
    /// they can. [`ConnectionAborted`](io::ErrorKind::ConnectionAborted) where this process has been told to end, or
    /// another has taken over. [`TimedOut`](io::ErrorKind::TimedOut) where the predecessor does not answer within five
    /// seconds. [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) where the kernel refuses it to the predecessor,
    /// whose sentence is in it; then the part is what it was. Of several addresses the others may have the new part
    /// then.
    pub fn take_share(&self, part: f64) -> TakeShare {
        TakeShare(self.ask_for_share(part))
    }

    /// As [`take_share`](Self::take_share), and blocks.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// // When the workers accept:
    /// let share = generation.take_share_blocking(0.01)?;
    /// println!("this version gets {} % of the new connections", 100.0 * share);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`take_share`](Self::take_share).
    pub fn take_share_blocking(&self, part: f64) -> Result<f64, Error> {
        let answers = self.ask_for_share(part)?.into_iter();
        let answers = answers.map(|(answer, _)| answer.wait(|share| share.clone()));
        answers.fold(Ok(1.0), least)
    }

    fn ask_for_share(&self, part: f64) -> Result<Vec<(Answer, Key)>, Error> {
        let asked = self.cores().map(|core| core.ask_for_share(part));
        let asked = asked.map(|answer| answer.map(|answer| (answer, Key::default())));
        asked.collect::<Result<_, _>>().inspect_err(trace::refused)
    }
}

impl Core {
    fn ask_for_share(self: &Arc<Self>, part: f64) -> Result<Answer, Error> {
        use io::ErrorKind::{ConnectionAborted, InvalidInput, Unsupported};
        if !(0.0..=1.0).contains(&part) {
            return Err(self.no_share(InvalidInput, format!("{part} is no part between 0 and 1")));
        }
        let answer = Answer::new(Signal::new());
        if self.predecessor.is_none() {
            // It is the only one, or has been replaced.
            if self.is_ending.load(Ordering::SeqCst) {
                let why = "this process has been told to end, or another takes over";
                return Err(self.no_share(ConnectionAborted, why));
            }
            answer.put(Ok(1.0));
            return Ok(answer);
        }
        if self.is_one_queue() {
            let why =
                "its processes have one queue together, of which the workers take what they can";
            return Err(self.no_share(Unsupported, why));
        }
        self.start()?;
        let told = self.command(Command::Share(part, Arc::clone(&answer)));
        match told {
            Err(error) if error.kind() == ConnectionAborted => Err(self.no_share(
                ConnectionAborted,
                "this process has been told to end, or another has taken over",
            )),
            told => told.map(|()| answer),
        }
    }

    pub(super) fn no_share(&self, kind: io::ErrorKind, why: impl Into<Cow<'static, str>>) -> Error {
        let what = format!("cannot take a share of {}", self.addr);
        Error::refused(kind, what, why).at(self.addr)
    }
}

/// The future of [`Generation::take_share`].
#[must_use = "the share is taken without it, and its error is in this one"]
pub struct TakeShare(Result<Vec<(Answer, Key)>, Error>);

/// Where the program waits for what becomes of one asking.
pub(super) type Answer = Arc<Signal<Result<f64, Error>>>;

impl Future for TakeShare {
    type Output = Result<f64, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut all = Ok(1.0);
        for (answer, key) in self.0.as_mut().map_err(|error| error.clone())? {
            match answer.poll(key, context, |share| share.clone()) {
                Poll::Ready(share) => all = least(all, share),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(all)
    }
}

impl Drop for TakeShare {
    fn drop(&mut self) {
        for (answer, key) in self.0.iter().flatten() {
            answer.forget(key);
        }
    }
}

/// Of two addresses; the first error is why.
fn least(one: Result<f64, Error>, other: Result<f64, Error>) -> Result<f64, Error> {
    one.and_then(|one| other.map(|other| one.min(other)))
}

impl fmt::Debug for TakeShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakeShare").finish_non_exhaustive()
    }
}
