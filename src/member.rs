use crate::sys::{self, OwnedFd};
use crate::{Error, ReusePort, Socket, adopt, trace};

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
    index: usize,
    /// Does another process still have the same socket, in a mode of its own?
    inherited: bool,
}

impl<S: Socket> Member<S> {
    pub(crate) fn new(socket: S, index: usize) -> Self {
        Self {
            socket,
            index,
            inherited: false,
        }
    }

    /// One that another process may still use: its mode is changed only when it is taken.
    pub(crate) fn inherited(socket: S, index: usize) -> Self {
        Self {
            socket,
            index,
            inherited: true,
        }
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.socket
    }

    /// Takes one socket that was opened elsewhere and shares its port.
    ///
    /// Its index is 0: where it stands in the kernel's group cannot be asked.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where it is no socket of this kind, or
    /// does not share its port. It is closed then.
    pub fn adopt(fd: impl Into<OwnedFd>) -> Result<Self, Error> {
        let adopted = adopt::member(fd.into(), S::KIND).inspect_err(trace::refused)?;
        Ok(Self::new(adopted.fd.into(), 0))
    }

    /// Its place in the group, counted from 0 in the order of opening.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Enters the runtime of the calling thread: gives that runtime's own listener or UDP socket.
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
        self.socket.enter::<R>().map_err(Error::not_taken)
    }

    /// std's own socket, in blocking mode, for libraries that take that (quinn, tonic, trillium).
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
