//! The processes that have descriptors of sockets, by what every user may read of his own.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::sys::unix::stat;

/// A process, and the inodes of the sockets that it has, in ascending order.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) is_this: bool,
    pub(super) sockets: Vec<u64>,
}

/// So many descriptors are looked at by one thread in a row: 20 milliseconds.
const PORTION: usize = 4096;

/// A part of a process's descriptors.
struct Part {
    id: u32,
    /// Else all that its directory has.
    numbers: Option<Vec<u32>>,
}

/// The processes that have a descriptor of one of these sockets, in the order of their numbers.
///
/// The kernel takes five microseconds for each descriptor of each process, so that all processors
/// work where there are many. Fails where this process has no descriptor left to look with.
pub(super) fn holders(wanted: &HashSet<u64>) -> io::Result<Vec<Holder>> {
    // The number that this process has where /proc was mounted.
    let me = fs::read_link("/proc/self").ok();
    let me = me.and_then(|me| me.to_str()?.parse().ok());
    let mut all = Vec::new();
    for id in numbers("/proc")? {
        all.extend(parts(id)?);
    }
    let mut processes = BTreeMap::<u32, Vec<u64>>::new();
    for (id, found) in read_all(&all, me)? {
        processes.entry(id).or_default().extend(found);
    }
    let holders = processes.into_iter().filter_map(|(id, mut sockets)| {
        if !sockets.iter().any(|inode| wanted.contains(inode)) {
            return None;
        }
        sockets.sort_unstable();
        sockets.dedup();
        let name = fs::read(format!("/proc/{id}/comm")).ok()?;
        let name = name.strip_suffix(b"\n").unwrap_or(&name);
        Some(Holder {
            id,
            name: String::from_utf8_lossy(name).into(),
            is_this: me == Some(id),
            sockets,
        })
    });
    Ok(holders.collect())
}

/// The names in a directory that are numbers; none where there is none, or it may not be read.
fn numbers(directory: &str) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return nothing(error),
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers.collect())
}

/// Another user's process, or one that has ended, is passed over.
fn nothing<T: Default>(error: io::Error) -> io::Result<T> {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Ok(T::default()),
        _ if error.raw_os_error() == Some(libc::ESRCH) => Ok(T::default()),
        _ => Err(error),
    }
}

fn parts(id: u32) -> io::Result<Vec<Part>> {
    let directory = format!("/proc/{id}/fd");
    // kernel: proc_readfd_count says how many there are, since Linux 6.2.
    let size = match fs::metadata(&directory) {
        Ok(about) => about.len() as usize,
        Err(error) => return nothing(error),
    };
    if size <= PORTION {
        return Ok(vec![Part { id, numbers: None }]);
    }
    // Reading the directory costs as much as looking at what is in it.
    let numbers: Vec<_> = match places(id).filter(|&places| places as usize <= 2 * size) {
        Some(places) => (0..places).collect(),
        None => numbers(&directory)?,
    };
    let portions = numbers.chunks(PORTION).map(|portion| Part {
        id,
        numbers: Some(portion.to_vec()),
    });
    Ok(portions.collect())
}

/// How many numbers a process's descriptors can have at present (proc_pid_status(5)).
fn places(id: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    size?.trim().parse().ok()
}

/// The sockets of each part, on as many threads as is of use.
fn read_all(parts: &[Part], me: Option<u32>) -> io::Result<Vec<(u32, Vec<u64>)>> {
    const MOST: usize = 8;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            found.push((part.id, read(part, me == Some(part.id))?));
        }
        io::Result::Ok(found)
    };
    let processors = thread::available_parallelism().map_or(1, Into::into);
    let large = parts.iter().filter(|part| part.numbers.is_some()).count();
    thread::scope(|scope| {
        let helpers = (1..processors.min(MOST).min(large)).map_while(|_| {
            let thread = thread::Builder::new().name("reuseport-descriptors".to_owned());
            thread.spawn_scoped(scope, work).ok()
        });
        let helpers: Vec<_> = helpers.collect();
        let mut found = work()?;
        for helper in helpers {
            // Nothing in there panics.
            found.extend(helper.join().unwrap_or_else(|_| Ok(Vec::new()))?);
        }
        Ok(found)
    })
}

fn read(part: &Part, is_this: bool) -> io::Result<Vec<u64>> {
    let path = format!("/proc/{}/fd", part.id);
    let listed;
    let numbers = match &part.numbers {
        Some(numbers) => numbers,
        None => {
            listed = numbers(&path)?;
            &listed
        }
    };
    // Its own descriptors a process can look at in a tenth of the time.
    if is_this {
        let device = socket_device()?;
        let files = numbers
            .iter()
            .filter_map(|&number| stat(number as RawFd).ok());
        let sockets = files.filter(|file| file.st_dev == device);
        #[allow(clippy::unnecessary_cast, reason = "ino_t has 32 bits on some systems")]
        return Ok(sockets.map(|file| file.st_ino as u64).collect());
    }
    let directory = match File::open(&path) {
        Ok(directory) => directory,
        Err(error) => return nothing(error),
    };
    let mut sockets = Vec::new();
    for &number in numbers {
        match socket(directory.as_fd(), number) {
            Ok(inode) => sockets.extend(inode),
            // It may be listed and not be looked at (ptrace(2)).
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            Err(_) => {}
        }
    }
    Ok(sockets)
}

/// The device on which the kernel has all sockets.
fn socket_device() -> io::Result<libc::dev_t> {
    let socket = UnixDatagram::unbound()?;
    Ok(stat(socket.as_raw_fd())?.st_dev)
}

/// The inode of a socket, by the number of a descriptor; None where it stands for something else.
fn socket(directory: BorrowedFd<'_>, number: u32) -> io::Result<Option<u64>> {
    let mut name = [0; 16];
    write!(&mut name[..], "{number}\0")?;
    let mut link = [0; 64];
    // SAFETY: `name` has a NUL at its end, and the length is that of `link`, of which the kernel fills
    // what it returns.
    let len = unsafe {
        libc::readlinkat(
            directory.as_raw_fd(),
            name.as_ptr().cast(),
            link.as_mut_ptr().cast(),
            link.len(),
        )
    };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    Ok(socket_inode(link.get(..len).unwrap_or_default()))
}

/// `socket:[4711]` (proc_pid_fd(5)).
fn socket_inode(link: &[u8]) -> Option<u64> {
    let inode = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(inode).ok()?.parse().ok()
}
