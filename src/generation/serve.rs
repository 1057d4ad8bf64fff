//! The short way for a server that is one listener: open it, and be replaced by the next process.

use std::net::{TcpListener, UdpSocket};

use super::Generation;
use super::open::{alone, open};
use crate::error::Error;
use crate::group::{Group, Socket};
use crate::open::{Options, ToAddr};
use crate::runtime::ReusePort;
use crate::{sys, trace};

/// Serving in any runtime, until the next process takes over.
///
/// Every runtime has it. The functions return the runtime's own socket, and the [`Generation`] by which
/// the server learns when to end.
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
pub trait Serve: ReusePort {
    /// Opens a TCP listener to serve beside the process that serves, or as the first.
    ///
    /// This is [`Options::serve`] with the defaults.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{Serve, Std};
    ///
    /// let (listener, generation) = Std::serve("[::]:8881")?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Options::generation`].
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    fn serve(addr: impl ToAddr) -> Result<(Self::TcpListener, Generation), Error> {
        Options::new().serve::<Self>(addr)
    }

    /// Opens a UDP socket to serve beside the process that serves, or as the first.
    ///
    /// This is [`Options::serve_packet`] with the defaults.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{Serve, Std};
    ///
    /// let (socket, generation) = Std::serve_packet("[::]:8881")?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Options::generation`].
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    fn serve_packet(addr: impl ToAddr) -> Result<(Self::UdpSocket, Generation), Error> {
        Options::new().serve_packet::<Self>(addr)
    }
}

impl<R: ReusePort> Serve for R {}

impl Options {
    /// Opens a TCP listener to serve beside the process that serves, or as the first.
    ///
    /// It is a [generation](Self::generation) of one member. The process that serves goes on until this one
    /// takes over, which the first poll of [`Generation::shutdown`] does.
    ///
    /// On Windows, WASI and Solaris no process can replace another. There this is a plain listener, and
    /// [`Generation::stop`] ends the server, at once: so one program is for all systems.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "smol"))] {
    /// use reuseport::{Options, Smol};
    ///
    /// let (listener, generation) = Options::new().backlog(512).serve::<Smol>("[::]:8881")?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`generation`](Self::generation), and what the runtime answers.
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    pub fn serve<R: ReusePort>(
        &self,
        addr: impl ToAddr,
    ) -> Result<(R::TcpListener, Generation), Error> {
        let (group, generation) = one::<TcpListener>(self, addr).inspect_err(trace::refused)?;
        Ok((only::<_, R>(group)?, generation))
    }

    /// Opens a UDP socket to serve beside the process that serves, or as the first.
    ///
    /// As [`serve`](Self::serve).
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{Options, Std};
    ///
    /// let (socket, generation) = Options::new().device("eth0").serve_packet::<Std>(":8881")?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`serve`](Self::serve).
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    pub fn serve_packet<R: ReusePort>(
        &self,
        addr: impl ToAddr,
    ) -> Result<(R::UdpSocket, Generation), Error> {
        let (group, generation) = one::<UdpSocket>(self, addr).inspect_err(trace::refused)?;
        Ok((only::<_, R>(group)?, generation))
    }
}

/// A generation of one member, or what there is of it where no other process can replace this one.
fn one<S: Socket>(options: &Options, addr: impl ToAddr) -> Result<(Group<S>, Generation), Error> {
    match sys::meet::IS_THERE {
        true => open(options, addr, 1),
        false => alone(options, addr),
    }
}

/// The one member, in the runtime of the calling thread.
fn only<S: Socket, R: ReusePort>(group: Group<S>) -> Result<S::In<R>, Error> {
    match group.into_iter().next() {
        Some(member) => member.attach::<R>(),
        None => Err(Error::invalid(
            "cannot serve",
            "a group has at least one member",
        )),
    }
}
