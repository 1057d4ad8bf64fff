//! Tasks and time, for libraries that bring no runtime of their own.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::Net;

/// Tasks and time of a runtime, for libraries that accept in the background, or wait with a deadline.
///
/// A library that is generic over it needs no runtime among its dependencies, and no features: its user
/// chooses one by `reuseport = { features = ["smol"] }`, and names its marker type.
///
/// The runtime is the one around the call, the *ambient* one:
///
/// | | tasks run | time |
/// |---|---|---|
/// | `Tokio` | in the tokio runtime of the calling thread; without one, [`spawn`](Self::spawn) is an error | [`sleep`](Self::sleep) panics without one, as tokio's own |
/// | `Smol` | on smol's global executor: one thread, or as many as `SMOL_THREADS` says | anywhere |
/// | `AsyncStd` | on async-std's threads, one per processor | anywhere |
/// | `Std` | each on a thread of its own | blocks the thread |
///
/// A program with an executor of its own writes a marker type for it, which hands on the functions of
/// [`ReusePort`](crate::ReusePort), [`Net`] and this trait; or it hands the tasks over itself.
///
/// ```
/// use std::{io, time::Duration};
/// use reuseport::Runtime;
///
/// const IDLE: Duration = Duration::from_secs(60);
///
/// /// Echoes every connection, many at once, and hangs up on those that say nothing for a minute.
/// async fn serve<R: Runtime>(listener: R::TcpListener) -> io::Result<()> {
///     loop {
///         match R::accept(&listener).await {
///             Ok((stream, _)) => R::spawn(async move { echo::<R>(stream).await.ok(); })?,
///             // Out of descriptors, mostly: there are some again when a connection ends.
///             Err(_) => R::sleep(Duration::from_millis(10)).await,
///         }
///     }
/// }
///
/// async fn echo<R: Runtime>(stream: R::TcpStream) -> io::Result<()> {
///     let mut buf = [0; 1024];
///     while let n @ 1.. = R::within(IDLE, R::read(&stream, &mut buf)).await? {
///         R::within(IDLE, R::write_all(&stream, &buf[..n])).await?;
///     }
///     Ok(())
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no tasks and no clock for libraries that are generic over the runtime",
    note = "`reuseport::Std`, `Tokio`, `AsyncStd` and `Smol` have, each behind the feature of its name"
)]
pub trait Runtime: Net {
    /// Starts a task that runs on its own until it ends.
    ///
    /// Nothing waits for it: where a server is to end in good order, its tasks tell each other by a channel.
    ///
    /// ```
    /// use reuseport::Runtime;
    ///
    /// fn greet<R: Runtime>(stream: R::TcpStream) -> std::io::Result<()> {
    ///     R::spawn(async move {
    ///         R::write_all(&stream, b"hello\n").await.ok();
    ///     })
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// `Tokio`: there is no runtime around the call. `Std`: the system has no thread left. The task is
    /// dropped then.
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> io::Result<()>;

    /// Waits for so long; with `Std` it blocks the thread.
    ///
    /// ```
    /// use std::time::Duration;
    /// use reuseport::Runtime;
    ///
    /// async fn every_second<R: Runtime>(mut what: impl FnMut()) {
    ///     for _ in 0..10 {
    ///         what();
    ///         R::sleep(Duration::from_secs(1)).await;
    ///     }
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// `Tokio`: outside of a runtime, or in one that was built without `enable_time`.
    fn sleep(duration: Duration) -> impl Future<Output = ()> + Send;

    /// Runs an operation that has to end in so long, counted from the first poll.
    ///
    /// Where it has not, it is dropped, which ends it. With `Std` nothing can be dropped that blocks: there
    /// the [`Net`] functions and [`sleep`](Self::sleep) end by themselves at the deadline, with an error,
    /// and the operation goes on to its end; what it returns then is dropped. Deadlines can be nested, and
    /// several tasks can have some on one socket: none disturbs another.
    ///
    /// ```
    /// use std::time::Duration;
    /// use reuseport::Runtime;
    ///
    /// async fn line<R: Runtime>(stream: &R::TcpStream) -> std::io::Result<Vec<u8>> {
    ///     let (mut line, mut byte) = (Vec::new(), [0]);
    ///     R::within(Duration::from_secs(10), async {
    ///         while R::read(stream, &mut byte).await? == 1 && byte != *b"\n" {
    ///             line.extend(byte);
    ///         }
    ///         Ok(())
    ///     })
    ///     .await?;
    ///     Ok(line)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`TimedOut`](io::ErrorKind::TimedOut) if the time is over before, and whatever the operation
    /// returns.
    ///
    /// # Panics
    ///
    /// As [`sleep`](Self::sleep).
    fn within<T>(
        duration: Duration,
        operation: impl Future<Output = io::Result<T>> + Send,
    ) -> impl Future<Output = io::Result<T>> + Send {
        async move {
            let mut operation = pin!(operation);
            let mut sleep = pin!(Self::sleep(duration));
            poll_fn(|context| match operation.as_mut().poll(context) {
                Poll::Ready(result) => Poll::Ready(result),
                Poll::Pending => {
                    let is_over = sleep.as_mut().poll(context);
                    is_over.map(|()| Err(timed_out(duration)))
                }
            })
            .await
        }
    }
}

/// What an operation says whose time is over.
pub(super) fn timed_out(duration: Duration) -> io::Error {
    let why = format!("it has taken longer than {duration:?}");
    io::Error::new(io::ErrorKind::TimedOut, why)
}
