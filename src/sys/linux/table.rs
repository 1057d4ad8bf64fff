//! The tables of sockets that every user may read.
//!
//! /proc/net/{tcp,tcp6,udp,udp6} name each socket's address, state, owner, queue and inode
//! (proc_pid_net(5)).

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};

use crate::sys::{Kind, Receiver};

/// A socket, from a line of one of the tables or a message of sock_diag(7).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) state: u8,
    pub(super) uid: u32,
    pub(super) inode: u64,
    /// What waits: connections for a listener, bytes for others.
    pub(super) waiting: Option<u32>,
    /// How much may wait; the tables do not say it.
    pub(super) limit: Option<u32>,
    /// The tables say it of UDP only.
    pub(super) drops: Option<u32>,
}

pub(super) const TIME_WAIT: u8 = 0x06;
pub(super) const CLOSE: u8 = 0x07;
pub(super) const LISTEN: u8 = 0x0A;

impl Row {
    /// A listener, or a UDP socket without a peer: what others may share with.
    pub(super) fn receives(&self, kind: Kind) -> bool {
        match kind {
            Kind::Tcp => self.state == LISTEN,
            Kind::Udp => self.state == CLOSE,
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = parse_addr(fields.next()?)?;
        let remote = parse_addr(fields.next()?)?;
        let state = u8::from_str_radix(fields.next()?, 16).ok()?;
        // kernel: get_tcp4_sock writes a listener's accept queue where others have unread bytes.
        let (_, waiting) = fields.next()?.split_once(':')?;
        let waiting = u32::from_str_radix(waiting, 16).ok();
        let uid = fields.nth(2)?.parse().ok()?;
        let inode = fields.nth(1)?.parse().ok()?;
        // After a count of references and a pointer; in the tables of TCP other numbers follow.
        let rest: Vec<_> = fields.collect();
        let drops = match rest[..] {
            [_, _, drops] => drops.parse().ok(),
            _ => None,
        };
        Some(Self {
            local,
            remote,
            state,
            uid,
            inode,
            waiting,
            limit: None,
            drops,
        })
    }
}

/// `0100007F:1F90`: words of 32 bits in the machine's own order, then the port.
fn parse_addr(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = [0; 16];
    let len = words.len() / 2;
    for (index, word) in bytes.get_mut(..len)?.chunks_exact_mut(4).enumerate() {
        let word_text = words.get(index * 8..index * 8 + 8)?;
        word.copy_from_slice(&u32::from_str_radix(word_text, 16).ok()?.to_ne_bytes());
    }
    let ip: IpAddr = match len {
        4 => <[u8; 4]>::try_from(&bytes[..4]).ok()?.into(),
        16 => IpAddr::from(bytes).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The rows of this thread's network namespace that are wanted.
pub(super) fn rows(kind: Kind, wanted: impl Fn(&Row) -> bool) -> io::Result<Vec<Row>> {
    let tables = match kind {
        Kind::Tcp => ["tcp", "tcp6"],
        Kind::Udp => ["udp", "udp6"],
    };
    let mut rows = Vec::new();
    let mut refusals = Vec::new();
    for table in tables {
        // /proc/net would be the namespace of the process's first thread.
        match File::open(format!("/proc/thread-self/net/{table}")) {
            Ok(file) => {
                for line in BufReader::new(file).lines().skip(1) {
                    rows.extend(Row::parse(&line?).filter(&wanted));
                }
            }
            Err(error) => refusals.push(error),
        }
    }
    // A machine without IPv6 has no table of it.
    match refusals.pop() {
        Some(error) if refusals.len() + 1 == tables.len() => Err(error),
        _ => Ok(rows),
    }
}

/// Each socket of one family that receives what others send first, and the address it has.
pub(super) fn receivers(kind: Kind, addr: &SocketAddr) -> io::Result<Vec<(SocketAddr, Receiver)>> {
    let file = open(kind, addr)?;
    let mut receivers = Vec::new();
    for line in BufReader::new(file).lines().skip(1) {
        let row = Row::parse(&line?);
        match row.filter(|row| row.receives(kind)) {
            Some(row) if row.local.port() == addr.port() => {
                let receiver = Receiver {
                    inode: row.inode,
                    uid: row.uid,
                    only_v6: None,
                    interface: 0,
                };
                receivers.push((row.local, receiver));
            }
            // Listeners come first (kernel: tcp_seek_last_pos).
            None if kind == Kind::Tcp => break,
            _ => {}
        }
    }
    Ok(receivers)
}

fn open(kind: Kind, addr: &SocketAddr) -> io::Result<File> {
    let table = match (kind, addr) {
        (Kind::Tcp, SocketAddr::V4(_)) => "tcp",
        (Kind::Tcp, SocketAddr::V6(_)) => "tcp6",
        (Kind::Udp, SocketAddr::V4(_)) => "udp",
        (Kind::Udp, SocketAddr::V6(_)) => "udp6",
    };
    // /proc/net would be the namespace of the process's first thread.
    File::open(format!("/proc/thread-self/net/{table}"))
}

/// What the tables of TCP tell of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) inode: u64,
    /// One is the listener's own, and each request that is half-open or queued has one (kernel:
    /// reqsk_alloc). MPTCP's has one more.
    pub(super) references: u32,
    /// What is in the accept queue.
    pub(super) queued: u32,
}

impl Listener {
    /// None where the line is of another state.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().skip(3);
        let state = u8::from_str_radix(fields.next()?, 16).ok()?;
        let (_, queued) = fields.next()?.split_once(':')?;
        let queued = u32::from_str_radix(queued, 16).ok()?;
        let inode = fields.nth(4)?.parse().ok()?;
        let references = fields.next()?.parse().ok()?;
        (state == LISTEN).then_some(Self {
            inode,
            references,
            queued,
        })
    }
}

/// Hands the listeners of one family to `each`, until it returns false; true where it has seen all.
///
/// They come first in the tables (kernel: tcp_seek_last_pos), so what follows is not read.
pub(super) fn listeners(
    addr: &SocketAddr,
    mut each: impl FnMut(Listener) -> bool,
) -> io::Result<bool> {
    let mut file = BufReader::new(open(Kind::Tcp, addr)?);
    let mut line = String::new();
    file.read_line(&mut line)?;
    loop {
        line.clear();
        file.read_line(&mut line)?;
        match Listener::parse(&line) {
            Some(listener) if each(listener) => {}
            Some(_) => return Ok(false),
            None => return Ok(true),
        }
    }
}

/// How many sockets of one family TCP has in this thread's network namespace.
pub(super) fn size(addr: &SocketAddr) -> io::Result<u32> {
    let (file, protocol) = match addr {
        SocketAddr::V4(_) => ("sockstat", "TCP:"),
        SocketAddr::V6(_) => ("sockstat6", "TCP6:"),
    };
    let text = fs::read_to_string(format!("/proc/thread-self/net/{file}"))?;
    let in_use = text.lines().find_map(|line| {
        let mut fields = line.strip_prefix(protocol)?.split_ascii_whitespace();
        fields.find(|name| *name == "inuse")?;
        fields.next()?.parse().ok()
    });
    in_use.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(fuzzing)]
pub(super) fn fuzz(line: &str) {
    let _ = (Row::parse(line), Listener::parse(line));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_both_families_are_read() {
        let v4 = "   1: 0100007F:1F90 0200007F:0050 0A 00000000:00000000 00:00000000 00000000  1234        0 99 1 0";
        let row = Row::parse(v4).unwrap();
        let words = if cfg!(target_endian = "little") {
            "127.0.0.1:8080"
        } else {
            "1.0.0.127:8080"
        };
        assert_eq!(row.local, words.parse().unwrap());
        assert_eq!((row.state, row.uid, row.inode), (LISTEN, 1234, 99));
        assert_eq!((row.waiting, row.drops), (Some(0), None));

        let v6 = "0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 07 0:0 0:0 0 7 0 1";
        assert_eq!(Row::parse(v6).unwrap().local, "[::]:80".parse().unwrap());

        let udp = "2395: 0100007F:9C29 00000000:0000 07 00000000:0000001F 00:00000000 00000000     7        0 26188720 2 00000000d0ae506c 12";
        let row = Row::parse(udp).unwrap();
        assert_eq!(
            (row.waiting, row.drops, row.inode),
            (Some(31), Some(12), 26_188_720)
        );
        let tcp = "0: 0100007F:98F1 00000000:0000 0A 00000000:0000000C 00:00000000 00000000 0 0 5 13 000000005c321d68 100 0 0 10 0";
        let row = Row::parse(tcp).unwrap();
        assert_eq!((row.waiting, row.drops, row.inode), (Some(12), None, 5));
        let listener = Listener {
            inode: 5,
            references: 13,
            queued: 12,
        };
        assert_eq!(Listener::parse(tcp), Some(listener));
        assert_eq!(Listener::parse(v4).unwrap().references, 1);
        assert_eq!(Listener::parse(udp), None);
        assert_eq!(Listener::parse(&tcp.replace(" 0A ", " 01 ")), None);
        assert!(Row::parse("  sl  local_address rem_address   st").is_none());
        assert!(Row::parse("").is_none());
    }
}
