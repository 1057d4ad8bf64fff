//! A rendezvous in a folder that only this user can write: a UNIX socket, and beside it a file whose lock is held
//! as long as a process listens.
//!
//! The file of a socket stays behind when the process dies, and a socket whose queue is full refuses a caller
//! just as one at which no process listens (connect(2) of the BSDs). So the lock tells which it is (flock(2)): it is
//! of the open file, which goes from process to process with the socket, and is free when the last one has
//! ended, however that was.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{Found, Rendezvous};
use crate::sys::unix::check;
use crate::sys::{pass, socket, user};

/// How many processes may wait to be heard.
const QUEUE: i32 = 16;

/// Before a process is called again that listens and did not answer.
const PAUSE: Duration = Duration::from_millis(5);

/// The two files of a rendezvous.
struct Files {
    socket: PathBuf,
    lock: PathBuf,
}

impl Files {
    fn of(folder: &Path, name: &[u8]) -> Self {
        // A path is at most about a hundred bytes long (unix(7), SUN_LEN), which a name with an address and a
        // device is not sure to fit into.
        let name = format!("{:016x}", fnv(name));
        Self {
            socket: folder.join(&name),
            lock: folder.join(name + ".lock"),
        }
    }
}

/// FNV-1a: the same number in every build of this crate.
fn fnv(bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325;
    bytes.iter().fold(start, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

pub(super) fn listen(folder: &Path, name: &[u8]) -> io::Result<Rendezvous> {
    let files = Files::of(folder, name);
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&files.lock)?;
    if !lock_file(&lock, libc::LOCK_EX)? {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    // What is left of a process that has ended.
    match fs::remove_file(&files.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = socket::unix_stream()?;
    pass::tell_senders(socket.as_fd())?;
    socket::bind_unix(&socket, &files.socket)?;
    // The folder may be one that others may read.
    fs::set_permissions(&files.socket, Permissions::from_mode(0o600))?;
    socket::listen_unix(&socket, QUEUE)?;
    Ok(Rendezvous::new(socket, Some(lock.into())))
}

pub(super) fn find(folder: &Path, name: &[u8], owner: u32, until: Instant) -> io::Result<Found> {
    let files = Files::of(folder, name);
    let lock = match File::open(&files.lock) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nobody),
        Err(error) => return Err(error),
    };
    loop {
        // Free again when it is closed here.
        if lock_file(&lock, libc::LOCK_SH)? {
            return Ok(Found::Nobody);
        }
        let stream = socket::unix_stream()?;
        match socket::uninterrupted(|| socket::connect_unix(&stream, &files.socket)) {
            Ok(()) => match is_of(&stream, owner) {
                Ok(true) => {
                    pass::tell_senders(stream.as_fd())?;
                    return Ok(Found::Line(stream));
                }
                Ok(false) => return Err(refused("another user's process listens in that folder")),
                // It has hung up since, and the system does not tell any more whose it was.
                Err(_) => {}
            },
            // Its queue is full, or it has not come so far.
            Err(error) if is_early(&error) => {}
            Err(error) => return Err(error),
        }
        if Instant::now() >= until {
            return Ok(Found::Busy);
        }
        thread::sleep(PAUSE);
    }
}

pub(super) fn accept(
    rendezvous: &OwnedFd,
    owner: u32,
    refusal: &[u8],
) -> io::Result<Option<OwnedFd>> {
    let stream = match socket::accept(rendezvous) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    };
    // Of one that has hung up since the system may not tell any more whose it was.
    match is_of(&stream, owner) {
        Ok(true) => return Ok(Some(stream)),
        Ok(false) => {}
        Err(_) => return Ok(None),
    }
    // There is room for it: nothing has been sent before.
    let _ = pass::send_now(stream.as_fd(), refusal);
    Ok(None)
}

/// Those that come from here on are refused as soon as the socket is closed, and find no process then.
pub(super) fn end(rendezvous: OwnedFd, farewell: &[u8]) {
    while let Ok(stream) = socket::accept(&rendezvous) {
        let _ = pass::send_now(stream.as_fd(), farewell);
    }
}

/// The folder where none was given: of the session ($XDG_RUNTIME_DIR), or of the user among the temporary files.
pub(super) fn default() -> io::Result<PathBuf> {
    let session = std::env::var_os("XDG_RUNTIME_DIR").filter(is_sessions);
    let folder = match session {
        Some(session) => Path::new(&session).join("reuseport"),
        None => std::env::temp_dir().join(format!("reuseport-{}", user())),
    };
    check_length(&folder)?;
    make(&folder)?;
    // A user who may write beside it could have made it, or a link to another place.
    let about = fs::symlink_metadata(&folder)?;
    check_folder(&folder, &about, user()).map(|()| folder)
}

/// One that is another user's is of no use: sudo(8) leaves the variable as it was.
fn is_sessions(folder: &OsString) -> bool {
    let folder = Path::new(folder);
    let about = fs::metadata(folder);
    folder.is_absolute() && about.is_ok_and(|about| about.is_dir() && about.uid() == user())
}

/// Makes the folder that the program has named, and sees that no other user can put anything there.
pub(super) fn check_given(folder: &Path) -> io::Result<()> {
    check_length(folder)?;
    make(folder)?;
    check_folder(folder, &fs::metadata(folder)?, user())
}

/// Of the name that a UNIX address has room for: 104 bytes on the BSDs, 108 on Linux, the one at the end included.
fn check_length(folder: &Path) -> io::Result<()> {
    const ROOM: usize = 104 - 1 - 16 - 1;
    let len = folder.as_os_str().len();
    if len <= ROOM {
        return Ok(());
    }
    let why = format!(
        "the path of its folder is {len} bytes long, and a UNIX address has room for {ROOM}"
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

fn make(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn check_folder(folder: &Path, about: &fs::Metadata, user: u32) -> io::Result<()> {
    let folder = folder.display();
    if !about.is_dir() {
        return Err(refused(format!("{folder} is no folder")));
    }
    if about.uid() != user {
        return Err(refused(format!(
            "the folder {folder} is user {}'s, and this process is user {user}'s",
            about.uid()
        )));
    }
    let mode = about.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(refused(format!(
            "other users may write into the folder {folder} (its mode is {mode:o})"
        )));
    }
    Ok(())
}

fn refused(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.into())
}

fn is_of(stream: &OwnedFd, owner: u32) -> io::Result<bool> {
    pass::peer(stream.as_fd()).map(|peer| peer.uid == owner)
}

fn is_early(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
    matches!(error.kind(), ConnectionRefused | NotFound | WouldBlock)
}

/// Whether the lock of a file could be had.
fn lock_file(file: &File, how: libc::c_int) -> io::Result<bool> {
    // SAFETY: flock takes two numbers.
    let locked = socket::uninterrupted(|| {
        check(unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) })
    });
    match locked {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
