//! Where two processes of a server find each other: at a name of their network namespace on Linux, and in a
//! folder elsewhere, or where one was given.

mod folder;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
        use super::control::meet as names;
    }
}

/// Whether processes can meet at all.
pub(crate) const IS_THERE: bool = true;

/// Where the processes meet that are to replace each other.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The same for one group, and no other, in all processes.
    name: Vec<u8>,
    /// The folder that the program has named.
    folder: Option<PathBuf>,
}

impl Place {
    pub(crate) fn new(name: Vec<u8>, folder: Option<&Path>) -> Self {
        Self {
            name,
            folder: folder.map(Path::to_owned),
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn is_a_name(&self) -> bool {
        self.folder.is_none()
    }

    /// The folder, into which no other user can put anything.
    fn folder(&self) -> io::Result<PathBuf> {
        match &self.folder {
            Some(folder) => folder::check_given(folder).map(|()| folder.clone()),
            None => folder::default(),
        }
    }
}

/// The socket at which the next process is heard. Of several processes that have it the last one listens.
#[derive(Clone, Debug)]
pub(crate) struct Rendezvous {
    socket: Arc<OwnedFd>,
    /// In a folder: what tells that somebody listens. It is unlocked when no process has it any more.
    lock: Option<Arc<OwnedFd>>,
}

impl Rendezvous {
    fn new(socket: OwnedFd, lock: Option<OwnedFd>) -> Self {
        Self {
            socket: Arc::new(socket),
            lock: lock.map(Arc::new),
        }
    }

    /// One that another process has passed on.
    pub(crate) fn of(fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let socket = fds.next()?;
        Some(Self::new(socket, fds.next()))
    }

    /// What another process needs to listen there.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let lock = self.lock.iter().map(|lock| lock.as_fd());
        std::iter::once(self.socket.as_fd()).chain(lock).collect()
    }

    /// It can be read when a process has come.
    pub(crate) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }
}

/// What is at a place.
#[derive(Debug)]
pub(crate) enum Found {
    /// A connection to the process that serves, or to one that is about to end.
    Line(OwnedFd),
    Nobody,
    /// There is one, and it does not answer.
    Busy,
}

/// Listens at a place; [`AddrInUse`](io::ErrorKind::AddrInUse) where another process has just begun to.
pub(crate) fn listen(place: &Place) -> io::Result<Rendezvous> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if place.is_a_name() {
        return names::listen(&place.name).map(|socket| Rendezvous::new(socket, None));
    }
    folder::listen(&place.folder()?, &place.name)
}

/// Looks for the process that serves, whose sockets that user has opened.
pub(crate) fn find(place: &Place, owner: u32, until: Instant) -> io::Result<Found> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if place.is_a_name() {
        return Ok(match names::find(&place.name, owner, until)? {
            names::Found::Line(line) => Found::Line(line),
            names::Found::Nobody | names::Found::Refused => Found::Nobody,
            names::Found::Busy => Found::Busy,
        });
    }
    folder::find(&place.folder()?, &place.name, owner, until)
}

/// The next process that has come; None where none has, or where it is another user's, which is told `refusal`.
pub(crate) fn accept(
    rendezvous: &Rendezvous,
    owner: u32,
    refusal: &[u8],
) -> io::Result<Option<OwnedFd>> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if rendezvous.lock.is_none() {
        return Ok(match names::accept(rendezvous.socket.as_fd(), owner)? {
            names::Accepted::Line(line) => Some(line),
            names::Accepted::Stranger(stranger) => {
                names::dismiss(stranger, refusal);
                None
            }
            names::Accepted::None => None,
        });
    }
    folder::accept(&rendezvous.socket, owner, refusal)
}

/// Lets no process come any more, and tells those that have come `farewell`; nothing where another process, or
/// another part of this one, has the rendezvous too.
pub(crate) fn end(rendezvous: Rendezvous, farewell: &[u8]) {
    let Rendezvous { socket, lock } = rendezvous;
    let Some(socket) = Arc::into_inner(socket) else {
        return;
    };
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if lock.is_none() {
        return names::end(socket, farewell);
    }
    folder::end(socket, farewell);
    drop(lock);
}
