use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::{error, fmt, io};

use crate::sys::Holder;

/// Why a socket could not be opened, adopted, dialed or given to a runtime.
///
/// Its text is one whole sentence: what was tried, on which address, why it failed, and the
/// system's own words. `?` makes an [`io::Error`] of the same kind and text of it.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use reuseport::{ReusePort, Std};
///
/// let error = Std::listen("localhost:65536").unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
/// assert_eq!(error.to_string(), "cannot use \"localhost:65536\" as an address: port 65536 is larger than 65535");
/// # }
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    what: Cow<'static, str>,
    why: Option<Cow<'static, str>>,
    addr: Option<SocketAddr>,
    holder: Option<Holder>,
    process: Option<(u32, String)>,
    kind: io::ErrorKind,
    io: io::Error,
}

impl Error {
    /// The system refused: its words end the sentence.
    pub(crate) fn system(what: impl Into<Cow<'static, str>>, io: io::Error) -> Self {
        Self(Arc::new(Inner {
            what: what.into(),
            why: None,
            addr: None,
            holder: None,
            process: None,
            kind: io.kind(),
            io,
        }))
    }

    /// The crate itself refuses: `why` is all there is to say.
    pub(crate) fn refused(
        kind: io::ErrorKind,
        what: impl Into<Cow<'static, str>>,
        why: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::system(what, io::Error::new(kind, why.into()))
    }

    pub(crate) fn invalid(
        what: impl Into<Cow<'static, str>>,
        why: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::refused(io::ErrorKind::InvalidInput, what, why)
    }

    /// A socket was opened, and the runtime refused it.
    pub(crate) fn not_taken(io: io::Error) -> Self {
        Self::system("the runtime did not take the socket", io)
    }

    /// While it is being made, and not yet copied.
    fn set(&mut self, set: impl FnOnce(&mut Inner)) {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            set(inner);
        }
    }

    pub(crate) fn at(mut self, addr: SocketAddr) -> Self {
        self.set(|inner| inner.addr = Some(addr));
        self
    }

    pub(crate) fn why(mut self, why: Option<impl Into<Cow<'static, str>>>) -> Self {
        self.set(|inner| inner.why = why.map(Into::into));
        self
    }

    pub(crate) fn held_by(mut self, holder: Holder, process: Option<(u32, String)>) -> Self {
        self.set(|inner| (inner.holder, inner.process) = (Some(holder), process));
        self
    }

    pub(crate) fn with_kind(mut self, kind: io::ErrorKind) -> Self {
        self.set(|inner| inner.kind = kind);
        self
    }

    /// The kind of failure.
    ///
    /// It is [`io::ErrorKind::Unsupported`] if the system cannot do what was asked, and
    /// [`io::ErrorKind::InvalidInput`] if the caller can mend it.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{ReusePort, Std};
    ///
    /// let error = Std::listen("example.com:80").unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    /// # }
    /// ```
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.0.kind
    }

    /// The address that the failure is about; `None` if there is none, as for a text that is no
    /// address.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{ReusePort, Std};
    ///
    /// let plain = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let error = Std::listen(plain.local_addr()?).unwrap_err();
    /// assert_eq!(error.addr(), Some(plain.local_addr()?));
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        self.0.addr
    }

    /// What holds the address, for [`io::ErrorKind::AddrInUse`] on Linux; else `None`.
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{Holder, ReusePort, Std};
    ///
    /// let plain = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let error = Std::listen(plain.local_addr()?).unwrap_err();
    /// assert_eq!(error.holder(), Some(Holder::NotSharing));
    /// assert_eq!(error.holder_pid(), Some(std::process::id()));
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        self.0.holder
    }

    /// The number of a process that holds the address, as `/proc` has it; `None` if it is not known.
    ///
    /// It is known on Linux, for processes whose descriptors this one may see: without a privilege
    /// those of the same user. If several processes have the socket, it is this one or else one of
    /// them. On a machine with very many descriptors the search is given up.
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{ReusePort, Std};
    ///
    /// let plain = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let error = Std::listen(plain.local_addr()?).unwrap_err();
    /// assert_eq!(error.holder_pid(), Some(std::process::id()));
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn holder_pid(&self) -> Option<u32> {
        self.0.process.as_ref().map(|(id, _)| *id)
    }

    /// The name of [that process](Self::holder_pid), as `ps` shows it: at most 15 bytes.
    ///
    /// A process chooses its name, and can put control characters of terminals into it.
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{ReusePort, Std};
    ///
    /// let plain = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let error = Std::listen(plain.local_addr()?).unwrap_err();
    /// println!("{:?} has the port", error.holder_name());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn holder_name(&self) -> Option<&str> {
        self.0.process.as_ref().map(|(_, name)| name.as_str())
    }

    /// The system's own error, with the code in [`io::Error::raw_os_error`].
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{ReusePort, Std};
    ///
    /// let plain = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let error = Std::listen(plain.local_addr()?).unwrap_err();
    /// assert_eq!(error.io_error().raw_os_error(), Some(libc::EADDRINUSE));
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn io_error(&self) -> &io::Error {
        &self.0.io
    }

    /// Makes an [`io::Error`] of the same kind and text, as `From` does.
    ///
    /// It has no system's code; that is in [`io_error`](Self::io_error). This error is inside, in
    /// [`io::Error::get_ref`].
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{Error, ReusePort, Std};
    ///
    /// let error = Std::listen("8080").unwrap_err().into_io_error();
    /// let inside = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    /// assert_eq!(inside.map(Error::kind), Some(error.kind()));
    /// # }
    /// ```
    #[must_use]
    pub fn into_io_error(self) -> io::Error {
        io::Error::new(self.0.kind, self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        if let Some(why) = &self.0.why {
            write!(f, ": {why}")?;
        }
        write!(f, ": {}", self.0.io)
    }
}

impl fmt::Debug for Error {
    /// The sentence, so that `unwrap` and `fn main() -> Result<(), Error>` print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl error::Error for Error {
    /// The source of the system's error, whose own words the sentence has.
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.io.source()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        error.into_io_error()
    }
}
/// The same error of the system once more.
pub(crate) fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error.kind().into(),
    }
}
