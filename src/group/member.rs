use super::Socket;
use crate::error::Error;
use crate::open::adopt;
use crate::runtime::{ReusePort, taken};
use crate::sys::{self, OwnedFd};
use crate::trace;

/// One socket of a group, which belongs to no runtime yet.
///
/// It can be sent to the thread that is to serve it. Dropping it closes the socket, and takes it
/// out of the group.
///
/// ```
/// # #[cfg(feature = "tokio")] {
/// use reuseport::{Options, Tokio};
///
/// for member in Options::new().group("localhost:0", 2)? {
///     std::thread::spawn(move || -> std::io::Result<()> {
///         let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
///         runtime.block_on(async {
///             let listener: tokio::net::TcpListener = member.attach::<Tokio>()?;
///             // axum::serve(listener, app).await
///             Ok(())
///         })
///     })
///     .join()
///     .unwrap()?;
/// }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a member closes its socket"]
pub struct Member<S> {
    socket: S,
    number: usize,
    /// Does another process still have the same socket, in a mode of its own?
    inherited: bool,
}

impl<S: Socket> Member<S> {
    pub(crate) fn new(socket: S, number: usize) -> Self {
        Self {
            socket,
            number,
            inherited: false,
        }
    }

    /// One that another process may still use: its mode is changed only when it is taken.
    pub(crate) fn inherited(socket: S, number: usize) -> Self {
        Self {
            socket,
            number,
            inherited: true,
        }
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.socket
    }

    /// Takes one socket that was opened elsewhere and shares its port.
    ///
    /// Its number is 0: where it stands in the kernel's group cannot be asked.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{Member, ReusePort, Std};
    ///
    /// let inherited = Std::listen("localhost:0")?;
    /// let member = Member::<std::net::TcpListener>::adopt(inherited)?;
    /// assert_eq!(member.number(), 0);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where it is no socket of this kind, or
    /// does not share its port. It is closed then.
    pub fn adopt(fd: impl Into<OwnedFd>) -> Result<Self, Error> {
        let adopted = adopt::member(fd.into(), S::KIND, false).inspect_err(trace::refused)?;
        Ok(Self::new(adopted.fd.into(), 0))
    }

    /// Its number in the group, counted from 0 in the order of opening.
    ///
    /// Weights, processors and connection ids go by it, and a member that left passes it on to the next
    /// one that [joins](crate::Roster::join). In a group that was opened new it is at first also the
    /// member's place in the kernel's group; [`Roster::places`](crate::Roster::places) tells later.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let numbers: Vec<_> = group.iter().map(|member| member.number()).collect();
    /// assert_eq!(numbers, [0, 1]);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// Enters the runtime of the calling thread: gives that runtime's own listener or UDP socket.
    ///
    /// ```
    /// # #[cfg(feature = "smol")] {
    /// use reuseport::{Options, Smol};
    ///
    /// for member in Options::new().group("localhost:0", 2)? {
    ///     let listener: smol::net::TcpListener = member.attach::<Smol>()?;
    /// }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What the runtime answers, as where there is none.
    ///
    /// # Panics
    ///
    /// Where the runtime does: see its marker type.
    pub fn attach<R: ReusePort>(self) -> Result<S::In<R>, Error> {
        if R::NONBLOCKING || self.inherited {
            sys::set_nonblocking(&self.socket, R::NONBLOCKING).map_err(Error::not_taken)?;
        }
        taken(self.socket.enter::<R>())
    }

    /// std's own socket, in blocking mode, for libraries that take that (quinn, tonic, trillium).
    ///
    /// Only a socket of a generation of [one queue](crate::Generation#one-queue) does not block.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::Options;
    ///
    /// for member in Options::new().packet_group("localhost:0", 2)? {
    ///     let socket: std::net::UdpSocket = member.into_std();
    /// }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_std(self) -> S {
        if self.inherited {
            // Refused for no descriptor that is open (fcntl(2)).
            let _ = sys::set_nonblocking(&self.socket, false);
        }
        self.socket
    }
}

impl<S: Socket> From<Member<S>> for OwnedFd {
    fn from(member: Member<S>) -> Self {
        member.into_std().into()
    }
}

sys::impl_as_fd!(Member, Socket);
