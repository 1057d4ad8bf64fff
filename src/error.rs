use std::borrow::Cow;
use std::net::SocketAddr;
use std::{error, fmt, io};

use crate::{Holder, trace};

/// Why a socket could not be opened, adopted, dialed or given to a runtime.
///
/// Its text is one whole sentence: what was tried, on which address, why it failed, and the
/// system's own words. It becomes an [`io::Error`] of the same kind and text by `?`.
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
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    what: Cow<'static, str>,
    why: Option<Cow<'static, str>>,
    addr: Option<SocketAddr>,
    holder: Option<Holder>,
    kind: io::ErrorKind,
    io: io::Error,
}

impl Error {
    /// The system refused: its words end the sentence.
    pub(crate) fn system(what: impl Into<Cow<'static, str>>, io: io::Error) -> Self {
        Self(Box::new(Inner {
            what: what.into(),
            why: None,
            addr: None,
            holder: None,
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

    /// A socket was opened, and then the runtime refused it.
    pub(crate) fn not_taken(io: io::Error) -> Self {
        let error = Self::system("the runtime did not take the socket", io);
        trace::refused(&error);
        error
    }

    pub(crate) fn at(mut self, addr: SocketAddr) -> Self {
        self.0.addr = Some(addr);
        self
    }

    pub(crate) fn why(mut self, why: Option<impl Into<Cow<'static, str>>>) -> Self {
        self.0.why = why.map(Into::into);
        self
    }

    pub(crate) fn held_by(mut self, holder: Holder) -> Self {
        self.0.holder = Some(holder);
        self
    }

    pub(crate) fn with_kind(mut self, kind: io::ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The kind of failure; [`io::ErrorKind::Unsupported`] where the system cannot do what was
    /// asked.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.0.kind
    }

    /// The address that the failure is about, where there was one.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        self.0.addr
    }

    /// Who holds the address, where the kernel says so: on Linux, for [`io::ErrorKind::AddrInUse`].
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        self.0.holder
    }

    /// The system's own error, which has the code in [`io::Error::raw_os_error`].
    #[must_use]
    pub fn io_error(&self) -> &io::Error {
        &self.0.io
    }

    /// An [`io::Error`] of the same kind whose text is the whole sentence, as `From` makes it.
    ///
    /// The system's code is lost in it; [`io_error`](Self::io_error) has that.
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
    /// What stands behind the system's error; the sentence has its words already.
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.io.source()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        error.into_io_error()
    }
}
