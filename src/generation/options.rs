//! The calls that open a generation, and wait until the predecessor has answered.

use std::future::{Future, poll_fn};
use std::net::{TcpListener, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::thread;

use super::Generation;
use super::open::open;
use crate::error::Error;
use crate::group::{Group, Key, Signal, Socket};
use crate::open::{Options, ToAddr};
use crate::{sys, trace};

impl Options {
    /// Opens `n` TCP listeners as the successor of the process that serves, to replace it.
    ///
    /// Where none serves, this is the first, and the group is new as with [`group`](Self::group). Where
    /// one serves, the group stands beside its, and gets nothing before [`Generation::take_over`]. Of two
    /// processes that start at once one becomes the successor of the other.
    ///
    /// On Linux each member has a queue of its own, which from Linux 5.7 on is emptied without a loss. On other
    /// systems, and with [`Spread::Queue`](crate::Spread::Queue), the members of both processes have
    /// [one queue](Generation#one-queue).
    ///
    /// Only a generation is relieved. For the first restart of a server that was a plain listener or a group there is
    /// [`Generation::adopt`], and for one whose address changes [`Generation::open`]; the [guide](crate::guide), 33
    /// and 34, shows both.
    ///
    /// It waits for the predecessor to answer, which is a matter of milliseconds, unless that is taking over
    /// itself: so it is for the beginning of a program, before it serves.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// let workers: Vec<_> = group.into_iter().collect();
    /// assert_eq!(workers.len(), 2);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`group`](Self::group), but sockets on other addresses of the port may be there if this process has them
    /// too. [`InvalidInput`](std::io::ErrorKind::InvalidInput) for port 0; where
    /// a socket that neither process has opened has come to share the port meanwhile; and where the
    /// process that serves has one queue and this one wants a queue for each, or the other way round.
    /// [`TimedOut`](std::io::ErrorKind::TimedOut) where the predecessor does not answer within ten
    /// seconds, or has to wait for 75 seconds.
    /// [`ConnectionRefused`](std::io::ErrorKind::ConnectionRefused) where it refuses, with its reason:
    /// another version of the hand-over, no descriptor left, members that another process holds, or a
    /// socket on the port that it did not open.
    /// [`PermissionDenied`](std::io::ErrorKind::PermissionDenied) for the user of a user namespace that
    /// stands for all who have no number there.
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) on Windows, WASI and Solaris, and where members are to have a
    /// queue each ([`Spread::Kernel`](crate::Spread::Kernel)) and the system cannot be told whom to choose.
    pub fn generation(
        &self,
        addr: impl ToAddr,
        n: usize,
    ) -> Result<(Group<TcpListener>, Generation), Error> {
        open(self, addr, n).inspect_err(trace::refused)
    }

    /// Opens `n` UDP sockets as the successor of the process that serves, to replace it.
    ///
    /// As [`generation`](Self::generation). A process that is relieved gets no datagram more, and can
    /// still answer those that it has: its sockets leave the group when it closes them, or ten seconds
    /// later, after which they can send nothing. The next process can begin after that. Under [connection ids](crate::Steering::ConnectionIds) the
    /// predecessor keeps the flows that it has: so the members' [numbers](crate::Member::number) are
    /// others than those of its members.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{ConnectionIds, Options, Steering};
    ///
    /// let options = Options::new().steering(Steering::ConnectionIds(ConnectionIds::quic()));
    /// let (group, generation) = options.packet_generation("[::]:443", 4)?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`generation`](Self::generation).
    pub fn packet_generation(
        &self,
        addr: impl ToAddr,
        n: usize,
    ) -> Result<(Group<UdpSocket>, Generation), Error> {
        open(self, addr, n).inspect_err(trace::refused)
    }

    /// As [`generation`](Self::generation), without blocking the calling thread while the predecessor answers.
    ///
    /// A thread of its own does it, on which a [`before_bind`](Self::before_bind) hook runs too. Dropped
    /// before it is ready, the generation is given up.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// # async fn open() -> std::io::Result<()> {
    /// let (group, generation) = Options::new().generation_async("localhost:8881", 2).await?;
    /// # Ok(())
    /// # }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`generation`](Self::generation), and where no thread can be started.
    pub fn generation_async(&self, addr: impl ToAddr, n: usize) -> Opened<TcpListener> {
        on_thread(self, addr, n)
    }

    /// As [`packet_generation`](Self::packet_generation), without blocking the calling thread.
    ///
    /// As [`generation_async`](Self::generation_async).
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// # async fn open() -> std::io::Result<()> {
    /// let (group, generation) = Options::new().packet_generation_async("[::]:443", 4).await?;
    /// # Ok(())
    /// # }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`generation_async`](Self::generation_async).
    pub fn packet_generation_async(&self, addr: impl ToAddr, n: usize) -> Opened<UdpSocket> {
        on_thread(self, addr, n)
    }
}

/// The group and the generation, when the predecessor has answered.
type Opened<S> = Pin<Box<dyn Future<Output = Result<(Group<S>, Generation), Error>> + Send>>;

/// Opens on a thread of its own.
fn on_thread<S: Socket + Send + 'static>(
    options: &Options,
    addr: impl ToAddr,
    n: usize,
) -> Opened<S> {
    let opened = Arc::new(Signal::new());
    let (options, target) = (options.clone(), addr.target());
    let started = target.and_then(|target| {
        let opened = Arc::clone(&opened);
        let thread = thread::Builder::new().name("reuseport-open".to_owned());
        let thread = thread.spawn(move || opened.put(open(&options, target, n)));
        thread.map(drop).map_err(|error| {
            let why = sys::resource_reason(&error);
            Error::system("cannot start a thread to open a generation", error).why(why)
        })
    });
    Box::pin(async move {
        let opened = match started {
            Ok(()) => {
                let mut key = Key::default();
                poll_fn(|context| opened.poll(&mut key, context, Option::take)).await
            }
            Err(error) => Err(error),
        };
        opened.inspect_err(trace::refused)
    })
}
