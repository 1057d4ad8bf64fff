//! Finding the rendezvous that a user opened, among any that others opened.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::tables::{self, Entry};
use super::{Stranger, is_of, path, set_rights};
use crate::sys::{pass, socket};

/// What is at a name.
#[derive(Debug)]
pub(crate) enum Found {
    /// A stream to a process of the owner's. It does not block, and tells who sends.
    Line(OwnedFd),
    /// The owner's rendezvous are all closed.
    Refused,
    /// The owner has none of that name, or only closed ones and the kernel tells no users.
    Nobody,
    /// The queue of the owner's has been full all the time.
    Busy,
}

/// What one connect came to.
enum Call {
    Line(OwnedFd),
    Refused,
    Full,
    /// Another user's, or none that this process may connect to.
    Other,
}

/// How long the first wait for room in a queue may be. Each further one may be twice as long.
///
/// Who waits is let in in turn (kernel: unix_wait_for_peer), and begins anew after each wait. A close
/// wakes none of them, unlike the end of the last descriptor.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// How long any of them may be: another user may have the name by then.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How long a queue is tried that is full and whose user the kernel does not tell.
const UNSURE: Duration = Duration::from_millis(100);

/// Connects to a rendezvous of that name which `owner` opened, and to no other user's.
///
/// Until `until` it waits for nothing but room in the owner's queue. It also finds rendezvous of
/// this process.
pub(crate) fn find(name: &[u8], owner: u32, until: Instant) -> io::Result<Found> {
    find_in(tables::entries, name, owner, until)
}

pub(super) fn find_in(
    table: impl Fn(&[u8]) -> io::Result<Vec<Entry>>,
    name: &[u8],
    owner: u32,
    until: Instant,
) -> io::Result<Found> {
    let until_sure = until.min(Instant::now() + UNSURE);
    let mut patience = FIRST_WAIT;
    // Most often the name itself is the owner's.
    if let Call::Line(line) = call(name, owner, None)? {
        return Ok(Found::Line(line));
    }
    let mut has_looked = false;
    loop {
        let mut refused = false;
        let mut full = Vec::new();
        let mut is_sure = false;
        for entry in candidates(table(name), name, owner) {
            match call(&entry.name, owner, None)? {
                Call::Line(line) => return Ok(Found::Line(line)),
                Call::Refused => refused |= entry.uid.is_some(),
                Call::Full => {
                    is_sure |= entry.uid.is_some();
                    full.push(entry.name);
                }
                Call::Other => {}
            }
        }
        let until = if is_sure { until } else { until_sure };
        for name in &full {
            let pause = until.min(Instant::now() + patience);
            if let Call::Line(line) = call(name, owner, Some(pause))? {
                return Ok(Found::Line(line));
            }
        }
        if !full.is_empty() {
            if Instant::now() < until {
                patience = LONGEST_WAIT.min(2 * patience);
                continue;
            }
            if is_sure {
                return Ok(Found::Busy);
            }
        }
        // A dump can miss what was there all the time, where others come and go (kernel:
        // unix_diag_dump counts the sockets before the next message's first).
        if has_looked {
            return Ok(if refused {
                Found::Refused
            } else {
                Found::Nobody
            });
        }
        has_looked = true;
    }
}

/// The rendezvous that may be the owner's; with the user where the kernel tells it.
fn candidates(table: io::Result<Vec<Entry>>, name: &[u8], owner: u32) -> Vec<Entry> {
    let Ok(mut entries) = table else {
        // The name itself has been tried, but its queue may be full.
        return vec![Entry {
            name: name.to_vec(),
            uid: None,
        }];
    };
    entries.retain(|entry| entry.uid.is_none_or(|uid| uid == owner));
    entries
}

/// Connects, and asks the kernel who listens; with a time it waits for room in the queue.
fn call(name: &[u8], owner: u32, until: Option<Instant>) -> io::Result<Call> {
    let stream = socket::unix_stream()?;
    // Until the peer is known it sends no descriptors.
    let _ = set_rights(stream.as_fd(), false);
    let connected = match until {
        None => socket::uninterrupted(|| socket::connect_unix(&stream, &path(name))),
        Some(until) => connect(&stream, name, until),
    };
    if let Err(error) = connected {
        return match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Ok(Call::Refused),
            Some(libc::EAGAIN) => Ok(Call::Full),
            // A security module keeps users apart, or the name is a socket of another type's.
            Some(libc::EACCES | libc::EPERM | libc::EPROTOTYPE) => Ok(Call::Other),
            _ => Err(error),
        };
    }
    if !is_of(stream.as_fd(), owner) {
        drop(Stranger::new(stream));
        return Ok(Call::Other);
    }
    let _ = set_rights(stream.as_fd(), true);
    // Not before: connect(2) would give the socket a name too, of which there are 2^20 for all users
    // (kernel: unix_autobind).
    pass::tell_senders(stream.as_fd())?;
    Ok(Call::Line(stream))
}

/// Connects in turn with others that wait, and fails with EAGAIN where its turn does not come.
fn connect(stream: &OwnedFd, name: &[u8], until: Instant) -> io::Result<()> {
    socket::set_nonblocking(stream, false)?;
    let connected = loop {
        // With what is left each time, so that no signal makes it longer.
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        socket::set_write_timeout(stream, Some(left))?;
        match socket::connect_unix(stream, &path(name)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            connected => break connected,
        }
    };
    socket::set_write_timeout(stream, None)?;
    socket::set_nonblocking(stream, true)?;
    connected
}
