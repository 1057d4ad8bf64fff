//! What waits in the queue of every socket that receives on an address, read again and again.
//!
//! A dump goes through every bucket of the kernel's table of listeners, 16,384 on a machine of 24 GiB. One
//! poll(2) tells which members have something in their queues at all, and TCP_INFO how much. Only a dump shows
//! for certain who is there, so there is still one ten times a second.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::table::{CLOSE, LISTEN};
use super::{Weak, diag, table, weak};
use crate::sys::Kind;

/// How old a dump may be.
const FRESH: Duration = Duration::from_millis(100);

/// When more members have something in their queues a dump costs less than asking each.
const MOST_ASKED: usize = 64;

/// A line to the kernel that is kept open; it is of the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Queues {
    kind: Kind,
    addr: SocketAddr,
    /// None after an error, until the next time, and where the tables are read instead.
    line: Option<File>,
    has_diag: bool,
    buffer: Vec<u8>,
    /// When a dump last had every member.
    saw_all: Option<Instant>,
    polled: Vec<libc::pollfd>,
}

impl Queues {
    /// The first reading is done at once, so that what is refused is known.
    pub(crate) fn open(kind: Kind, addr: SocketAddr) -> io::Result<Self> {
        let mut queues = Self {
            kind,
            addr,
            line: None,
            has_diag: true,
            buffer: diag::buffer(),
            saw_all: None,
            polled: Vec::new(),
        };
        match queues.dump(&mut |_, _| {}) {
            Ok(()) => {}
            Err(error) if is_for_want(&error) => return Err(error),
            Err(error) => {
                // Newer Androids, and filters of system calls, refuse it.
                queues.has_diag = false;
                queues.read_all(&mut |_, _| {}).map_err(|_| error)?;
            }
        }
        Ok(queues)
    }

    /// The inode of each, and what waits there: connections for TCP, bytes for UDP.
    ///
    /// True where these are all sockets on the address; false where only the members were looked at, and those
    /// that are gone may seem to be there.
    pub(crate) fn read(
        &mut self,
        members: &[Weak],
        mut each: impl FnMut(u64, u32),
    ) -> io::Result<bool> {
        let is_fresh = self.saw_all.is_some_and(|then| then.elapsed() < FRESH);
        if is_fresh && !members.is_empty() {
            if let Some(waiting) = self.glance(members) {
                let inodes = members.iter().map(Weak::inode);
                inodes.zip(waiting).for_each(|(inode, n)| each(inode, n));
                return Ok(false);
            }
        }
        self.saw_all = None;
        let mut missing: HashSet<u64> = members.iter().map(Weak::inode).collect();
        self.read_all(&mut |inode, waiting| {
            missing.remove(&inode);
            each(inode, waiting);
        })?;
        // An owner may have cloned a member and closed the original, whose number may stand for another listener.
        let are_open = || members.iter().all(Weak::is_open);
        self.saw_all = (missing.is_empty() && are_open()).then(Instant::now);
        Ok(true)
    }

    /// What waits for each member, by its descriptor; none where that does not tell.
    fn glance(&mut self, members: &[Weak]) -> Option<Vec<u32>> {
        self.polled.clear();
        self.polled.extend(members.iter().map(Weak::to_poll));
        let ready = weak::poll(&mut self.polled).ok()?;
        let mut waiting = vec![0; members.len()];
        match (ready, self.kind) {
            (0, _) => return Some(waiting),
            (1..=MOST_ASKED, Kind::Tcp) => {}
            // How many bytes wait SO_MEMINFO tells otherwise than a dump.
            _ => return None,
        }
        for ((member, polled), waiting) in members.iter().zip(&self.polled).zip(&mut waiting) {
            match polled.revents {
                0 => {}
                libc::POLLIN => *waiting = member.queued().ok()?,
                // It is closed, or its number stands for what can be written: no listener can.
                _ => return None,
            }
        }
        Some(waiting)
    }

    fn read_all(&mut self, mut each: &mut dyn FnMut(u64, u32)) -> io::Result<()> {
        if self.has_diag {
            return self.dump(&mut each);
        }
        match self.kind {
            Kind::Tcp => table::listeners(&self.addr, |row| {
                each(row.inode, row.queued);
                true
            })
            .map(drop),
            Kind::Udp => table::rows(Kind::Udp, |row| {
                row.local.port() == self.addr.port() && row.receives(Kind::Udp)
            })
            .map(|rows| {
                rows.iter()
                    .for_each(|row| each(row.inode, row.waiting.unwrap_or(0)));
            }),
        }
    }

    fn dump(&mut self, each: &mut dyn FnMut(u64, u32)) -> io::Result<()> {
        let states = match self.kind {
            Kind::Tcp => 1 << LISTEN,
            Kind::Udp => 1 << CLOSE,
        };
        let mut line = match self.line.take() {
            Some(line) => line,
            None => diag::open()?,
        };
        diag::waiting(
            &mut line,
            &mut self.buffer,
            self.kind,
            states,
            &self.addr,
            each,
        )?;
        // After an error the rest of an answer may still come.
        self.line = Some(line);
        Ok(())
    }
}

/// Whether the process or the system has no room, which may change.
fn is_for_want(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
    )
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::collections::HashMap;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::sys::unix::inode;

    fn both_ways(kind: Kind, addr: SocketAddr) -> [HashMap<u64, u32>; 2] {
        let mut queues = Queues::open(kind, addr).unwrap();
        assert!(queues.has_diag);
        [true, false].map(|has_diag| {
            queues.has_diag = has_diag;
            let mut read = HashMap::new();
            let is_all = queues.read(&[], |inode, waiting| {
                read.insert(inode, waiting);
            });
            assert!(is_all.unwrap());
            read
        })
    }

    #[test]
    fn a_listener_has_what_waits() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(addr).unwrap();
            let addr = listener.local_addr().unwrap();
            let inode = inode(listener.as_fd()).unwrap();
            let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(addr).unwrap()).collect();
            for read in both_ways(Kind::Tcp, addr) {
                assert_eq!(read.get(&inode), Some(&3), "{addr}");
            }
            drop(clients);
        }
    }

    #[test]
    fn a_udp_socket_has_what_waits() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        let inode = inode(socket.as_fd()).unwrap();
        assert!(
            both_ways(Kind::Udp, addr)
                .iter()
                .all(|read| read.get(&inode) == Some(&0))
        );
        socket.send_to(b"one", addr).unwrap();
        // It has arrived when it can be seen.
        socket.peek(&mut [0; 8]).unwrap();
        assert!(
            both_ways(Kind::Udp, addr)
                .iter()
                .all(|read| read.get(&inode) > Some(&0))
        );
    }

    #[test]
    fn members_are_looked_at_alone_until_one_is_not_there() {
        let listeners: Vec<_> = (0..4)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let members: Vec<_> = listeners
            .iter()
            .map(|listener| Weak::new(listener.as_fd()).unwrap())
            .collect();
        // Each on a port of its own, so that it is known who gets what.
        let mut queues = Queues::open(Kind::Tcp, listeners[0].local_addr().unwrap()).unwrap();
        let mut read = |of: &[Weak]| {
            let mut read = Vec::new();
            let is_all = queues.read(of, |_, waiting| read.push(waiting)).unwrap();
            (is_all, read)
        };
        // A dump does not have the others, and so is not enough.
        assert!(read(&members).0 && read(&members).0);
        assert_eq!(read(&members[..1]), (true, vec![0]));
        let to = |at: usize| TcpStream::connect(listeners[at].local_addr().unwrap()).unwrap();
        let clients = [1, 1, 1, 3].map(to);
        // A client may know of its connection before it is in the queue.
        let until = Instant::now() + Duration::from_secs(10);
        while read(&members) != (false, vec![0, 3, 0, 1]) {
            assert!(Instant::now() < until, "{:?}", read(&members));
            // The dump that it needs from time to time.
            read(&members[..1]);
        }
        // Its number stands for something else.
        let (other, _peer) = UnixStream::pair().unwrap();
        // SAFETY: both numbers are open, and the listener's owner closes what stands there then.
        let done = unsafe { libc::dup2(other.as_raw_fd(), listeners[2].as_raw_fd()) };
        assert_eq!(done, listeners[2].as_raw_fd());
        assert_eq!(read(&members), (true, vec![0]));
        drop(clients);
    }

    #[test]
    fn a_number_that_stands_for_another_listener_is_not_believed_for_long() {
        let [listener, other] = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let addr = listener.local_addr().unwrap();
        let member = [Weak::new(listener.as_fd()).unwrap()];
        let clone = listener.try_clone().unwrap();
        let mut queues = Queues::open(Kind::Tcp, addr).unwrap();
        let mut read = || {
            let mut waits = 0;
            let is_all = queues.read(&member, |_, n| waits += n).unwrap();
            (is_all, waits)
        };
        // A machine that is busy may take so long that another dump is due.
        let until = Instant::now() + Duration::from_secs(10);
        while read() != (false, 0) {
            assert!(Instant::now() < until);
        }
        // SAFETY: both numbers are open, and the listener's owner closes what stands there then.
        let done = unsafe { libc::dup2(other.as_raw_fd(), listener.as_raw_fd()) };
        assert_eq!(done, listener.as_raw_fd());
        let client = TcpStream::connect(addr).unwrap();
        while (read(), read()) != ((true, 1), (true, 1)) {
            assert!(Instant::now() < until, "{:?}", read());
        }
        drop((clone, client));
    }
}
