//! What waits in the queue of every socket that receives on an address, read again and again.

use std::fs::File;
use std::io;
use std::net::SocketAddr;

use super::table::{CLOSE, LISTEN};
use super::{diag, table};
use crate::sys::Kind;

/// A line to the kernel that is kept open; it is of the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Queues {
    kind: Kind,
    addr: SocketAddr,
    /// None after an error, until the next time, and where the tables are read instead.
    line: Option<File>,
    has_diag: bool,
    buffer: Vec<u8>,
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
        };
        match queues.dump(&mut |_, _| {}) {
            Ok(()) => {}
            Err(error) if is_for_want(&error) => return Err(error),
            Err(error) => {
                // Newer Androids, and filters of system calls, refuse it.
                queues.has_diag = false;
                queues.read(|_, _| {}).map_err(|_| error)?;
            }
        }
        Ok(queues)
    }

    /// The inode of each, and what waits there: connections for TCP, bytes for UDP.
    pub(crate) fn read(&mut self, mut each: impl FnMut(u64, u32)) -> io::Result<()> {
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
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::unix::inode;

    fn both_ways(kind: Kind, addr: SocketAddr) -> [HashMap<u64, u32>; 2] {
        let mut queues = Queues::open(kind, addr).unwrap();
        assert!(queues.has_diag);
        [true, false].map(|has_diag| {
            queues.has_diag = has_diag;
            let mut read = HashMap::new();
            queues
                .read(|inode, waiting| {
                    read.insert(inode, waiting);
                })
                .unwrap();
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
}
