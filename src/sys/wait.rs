//! Waiting for descriptors up to a point in time, and a bell that ends such a wait.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::unix::check;

/// Waits until one of the descriptors can be read, is hung up or has an error; tells which.
///
/// All false means that the time is up. Without `until` the wait has no end. A signal does not make
/// it longer.
pub(crate) fn poll(fds: &[BorrowedFd<'_>], until: Option<Instant>) -> io::Result<Vec<bool>> {
    let mut entries: Vec<_> = fds.iter().map(|&fd| entry(fd, libc::POLLIN)).collect();
    poll_entries(&mut entries, until)?;
    Ok(entries.iter().map(|entry| entry.revents != 0).collect())
}

/// The same for one descriptor, which can be read, or written, or both, as poll(2) names it.
pub(super) fn ready(
    fd: BorrowedFd<'_>,
    events: libc::c_short,
    until: Option<Instant>,
) -> io::Result<bool> {
    let mut entries = [entry(fd, events)];
    poll_entries(&mut entries, until)?;
    Ok(entries.iter().any(|entry| entry.revents != 0))
}

fn entry(fd: BorrowedFd<'_>, events: libc::c_short) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    }
}

fn poll_entries(entries: &mut [libc::pollfd], until: Option<Instant>) -> io::Result<()> {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        // SAFETY: the pointer and the count are those of `entries`, which outlives the call.
        let result =
            check(unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as _, timeout(left)) });
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Only part of the time was asked for, or the clocks differ.
            Ok(0) if left.is_none_or(|left| !left.is_zero()) => {}
            done => return done.map(drop),
        }
    }
}

/// In poll(2)'s milliseconds, and never less than what is left.
fn timeout(left: Option<Duration>) -> libc::c_int {
    left.map_or(-1, |left| {
        let millis = left.as_nanos().div_ceil(1_000_000);
        libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX)
    })
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
        use std::fs::File;
        use std::io::{Read, Write};
        use std::os::fd::{AsFd, FromRawFd, OwnedFd};

        /// Ends another thread's [`poll`]: an eventfd(2).
        #[derive(Debug)]
        pub(crate) struct Bell(File);

        impl Bell {
            pub(crate) fn new() -> io::Result<Self> {
                // SAFETY: eventfd touches no memory.
                let fd = check(unsafe {
                    libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)
                })?;
                // SAFETY: the kernel just made this descriptor, and nothing else knows it.
                Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
            }

            /// From here on the bell can be read, until it is cleared.
            pub(crate) fn ring(&self) -> io::Result<()> {
                // It would block where it has rung 2^64 - 2 times, and so can be read.
                unless_blocked((&self.0).write(&1_u64.to_ne_bytes()))
            }

            pub(crate) fn clear(&self) -> io::Result<()> {
                // It would block where it has not rung.
                unless_blocked((&self.0).read(&mut [0; 8]))
            }
        }

        impl AsFd for Bell {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.as_fd()
            }
        }
    } else {
        use std::io::{Read, Write};
        use std::os::fd::AsFd;
        use std::os::unix::net::UnixStream;

        /// Ends another thread's [`poll`]: a byte in a pair of sockets.
        #[derive(Debug)]
        pub(crate) struct Bell {
            ring: UnixStream,
            rung: UnixStream,
        }

        impl Bell {
            pub(crate) fn new() -> io::Result<Self> {
                let (ring, rung) = UnixStream::pair()?;
                ring.set_nonblocking(true)?;
                rung.set_nonblocking(true)?;
                Ok(Self { ring, rung })
            }

            /// From here on the bell can be read, until it is cleared.
            pub(crate) fn ring(&self) -> io::Result<()> {
                // It would block where it is full, and so can be read.
                unless_blocked((&self.ring).write(&[0]))
            }

            pub(crate) fn clear(&self) -> io::Result<()> {
                let mut bytes = [0; 64];
                loop {
                    match (&self.rung).read(&mut bytes) {
                        Ok(64) => {}
                        other => return unless_blocked(other),
                    }
                }
            }
        }

        impl AsFd for Bell {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.rung.as_fd()
            }
        }
    }
}

#[cfg(test)]
mod tests;
