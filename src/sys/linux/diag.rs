//! The kernel's own dump of sockets (sock_diag(7)), which needs no privilege either.
//!
//! It knows more than the tables, and picks the port in the kernel: with 18,000 connections on the
//! machine the tables take tens of milliseconds, and this takes one.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd};

use super::table::{CLOSE, LISTEN, Row};
use crate::sys::socket::uninterrupted;
use crate::sys::unix::check;
use crate::sys::{Kind, Receiver};

// <linux/netlink.h>, <linux/sock_diag.h> and <linux/inet_diag.h>, which libc has for some targets.
const NETLINK_SOCK_DIAG: libc::c_int = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const INET_DIAG_SKMEMINFO: u16 = 7;
const INET_DIAG_SKV6ONLY: u16 = 11;

/// ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, LISTEN and CLOSING: in the
/// other states no process has a descriptor of a socket that is on a port.
const HELD: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << LISTEN | 1 << 11;

/// The bytes of struct nlmsghdr, inet_diag_req_v2 and inet_diag_msg.
const HEADER: usize = 16;
const QUESTION: usize = 56;
const ANSWER: usize = 72;

/// Every listener and connection, or every UDP socket, that is bound to the port.
pub(super) fn rows(kind: Kind, port: u16) -> io::Result<Vec<Row>> {
    match kind {
        Kind::Tcp => rows_in(kind, HELD, port),
        Kind::Udp => rows_in(kind, u32::MAX, port),
    }
}

/// The same without connections, which take a third of a microsecond each even on other ports.
pub(super) fn own(kind: Kind, port: u16) -> io::Result<Vec<Row>> {
    match kind {
        Kind::Tcp => rows_in(kind, 1 << LISTEN, port),
        Kind::Udp => rows(kind, port),
    }
}

fn rows_in(kind: Kind, states: u32, port: u16) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut socket = open()?;
    for family in FAMILIES {
        let question = question(protocol(kind), states, family, port, INET_DIAG_SKMEMINFO);
        dump(&mut socket, &question, |message| {
            let row = read_row(message, kind)?;
            rows.extend(Some(row).filter(|row| row.local.port() == port));
            Some(())
        })?;
    }
    Ok(rows)
}

/// Every TCP socket that is bound to the port and neither listens nor is connected; none before
/// Linux 6.8, which knows of no such state (kernel: TCP_BOUND_INACTIVE).
pub(super) fn bound(port: u16) -> io::Result<Vec<Row>> {
    rows_in(Kind::Tcp, 1 << 13, port)
}

fn protocol(kind: Kind) -> libc::c_int {
    match kind {
        Kind::Tcp => libc::IPPROTO_TCP,
        Kind::Udp => libc::IPPROTO_UDP,
    }
}

/// The inodes of the connections of TCP on the port.
pub(super) fn connections(port: u16) -> io::Result<HashSet<u64>> {
    let mut inodes = HashSet::new();
    let mut socket = open()?;
    for family in FAMILIES {
        let question = question(libc::IPPROTO_TCP, HELD & !(1 << LISTEN), family, port, 0);
        dump(&mut socket, &question, |message| {
            let local = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
            let inode: u64 = u32_at(message, 68)?.into();
            inodes.extend(Some(inode).filter(|_| local == port));
            Some(())
        })?;
    }
    Ok(inodes)
}

/// The sockets on the port, of one family, that receive what others send first.
pub(super) fn receivers(kind: Kind, addr: &SocketAddr) -> io::Result<Vec<(SocketAddr, Receiver)>> {
    let states = match kind {
        Kind::Tcp => 1 << LISTEN,
        Kind::Udp => 1 << CLOSE,
    };
    let mut receivers = Vec::new();
    // The kernel tells INET_DIAG_SKV6ONLY unasked (kernel: inet_diag_msg_attrs_fill).
    let question = question(protocol(kind), states, family(addr), addr.port(), 0);
    dump(&mut open()?, &question, |message| {
        let local = self::addr(message, *message.first()?, 4, 8)?;
        let only_v6 = attribute(message, INET_DIAG_SKV6ONLY).and_then(<[u8]>::first);
        let receiver = Receiver {
            inode: u32_at(message, 68)?.into(),
            uid: u32_at(message, 64)?,
            only_v6: only_v6.map(|only| *only != 0),
            interface: u32_at(message, 40)?,
        };
        receivers.extend(Some((local, receiver)).filter(|_| local.port() == addr.port()));
        Some(())
    })?;
    Ok(receivers)
}

/// The inode of each listener on the port, of one family, and what its accept queue has.
pub(super) fn queues(addr: &SocketAddr, mut each: impl FnMut(u64, u32)) -> io::Result<()> {
    let question = question(libc::IPPROTO_TCP, 1 << LISTEN, family(addr), addr.port(), 0);
    dump(&mut open()?, &question, |message| {
        each(u32_at(message, 68)?.into(), u32_at(message, 56)?);
        Some(())
    })
    .map(drop)
}

/// The inode of each socket on the port, of one family and in these states, and what waits there.
pub(super) fn waiting(
    line: &mut File,
    buffer: &mut [u8],
    kind: Kind,
    states: u32,
    addr: &SocketAddr,
    each: &mut dyn FnMut(u64, u32),
) -> io::Result<()> {
    let question = question(protocol(kind), states, family(addr), addr.port(), 0);
    dump_into(buffer, line, &question, |message| {
        each(u32_at(message, 68)?.into(), u32_at(message, 56)?);
        Some(())
    })
    .map(drop)
}

/// The cookies of the handshakes on the port, of one family, that are under way.
pub(super) fn half_open(addr: &SocketAddr) -> io::Result<HashSet<u64>> {
    const SYN_RECV: u32 = 1 << 3;
    let mut cookies = HashSet::new();
    let mut socket = open()?;
    let question = question(libc::IPPROTO_TCP, SYN_RECV, family(addr), addr.port(), 0);
    // Where an answer is in parts, the kernel may pass over a request when an earlier one has ended
    // between two of them (kernel: inet_diag_dump_icsk goes on by counting).
    for _ in 0..2 {
        let parts = dump(&mut socket, &question, |message| {
            let local = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
            let cookie = u64::from_ne_bytes(message.get(44..52)?.try_into().ok()?);
            cookies.extend(Some(cookie).filter(|_| local == addr.port()));
            Some(())
        })?;
        if parts <= 1 {
            break;
        }
    }
    Ok(cookies)
}

const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

fn family(addr: &SocketAddr) -> u8 {
    FAMILIES[usize::from(addr.is_ipv6())]
}

/// kernel: netlink_dump makes no part longer than 32 KiB.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; 32 << 10]
}

pub(super) fn open() -> io::Result<File> {
    // SAFETY: socket touches no memory.
    let fd = check(unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            NETLINK_SOCK_DIAG,
        )
    })?;
    // SAFETY: the kernel just made this descriptor, and no other code knows it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Hands each message of the answer to `read`, which returns None for one that is broken; in how
/// many parts they came.
fn dump(
    socket: &mut File,
    question: &[u8],
    read: impl FnMut(&[u8]) -> Option<()>,
) -> io::Result<usize> {
    dump_into(&mut buffer(), socket, question, read)
}

fn dump_into(
    buf: &mut [u8],
    socket: &mut File,
    question: &[u8],
    mut read: impl FnMut(&[u8]) -> Option<()>,
) -> io::Result<usize> {
    socket.write_all(question)?;
    let mut parts = 0;
    loop {
        let len = uninterrupted(|| socket.read(buf))?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !read_messages(buf.get(..len).unwrap_or_default(), &mut read)? {
            return Ok(parts);
        }
        parts += 1;
    }
}

fn question(protocol: libc::c_int, states: u32, family: u8, port: u16, attribute: u16) -> Vec<u8> {
    let mut text = Vec::with_capacity(HEADER + QUESTION);
    text.extend(((HEADER + QUESTION) as u32).to_ne_bytes());
    text.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    text.extend(REQUEST_DUMP.to_ne_bytes());
    text.extend([0; 8]);
    let extension = attribute.checked_sub(1).map_or(0, |bit| 1 << bit);
    text.extend([family, protocol as u8, extension, 0]);
    text.extend(states.to_ne_bytes());
    text.extend(port.to_be_bytes());
    // Any other port, address, interface and cookie.
    text.resize(HEADER + QUESTION, 0);
    text
}

/// Reads what one read(2) returned; false where it was the end.
fn read_messages(mut text: &[u8], read: &mut impl FnMut(&[u8]) -> Option<()>) -> io::Result<bool> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    while !text.is_empty() {
        let len = u32_at(text, 0).ok_or_else(broken)? as usize;
        let message = text.get(HEADER..len).ok_or_else(broken)?;
        match u16_at(text, 4) {
            Some(SOCK_DIAG_BY_FAMILY) => read(message).ok_or_else(broken)?,
            Some(DONE) => return Ok(false),
            Some(ERROR) => {
                let errno = u32_at(message, 0).ok_or_else(broken)?;
                return Err(io::Error::from_raw_os_error((errno as i32).wrapping_neg()));
            }
            _ => {}
        }
        let next = len.checked_next_multiple_of(4);
        text = next.and_then(|next| text.get(next..)).unwrap_or_default();
    }
    Ok(true)
}

fn read_row(message: &[u8], kind: Kind) -> Option<Row> {
    let family = *message.first()?;
    let state = *message.get(1)?;
    let memory = attribute(message, INET_DIAG_SKMEMINFO);
    let memory = memory.and_then(|memory| Some((u32_at(memory, 4)?, u32_at(memory, 32)?)));
    let (limit, drops) = match kind {
        // kernel: tcp_diag_get_info puts the accept queue's limit where others have unsent bytes.
        Kind::Tcp => (u32_at(message, 60), memory.map(|memory| memory.1)),
        Kind::Udp => memory.unzip(),
    };
    Some(Row {
        local: addr(message, family, 4, 8)?,
        remote: addr(message, family, 6, 24)?,
        state,
        uid: u32_at(message, 64)?,
        inode: u32_at(message, 68)?.into(),
        waiting: Some(u32_at(message, 56)?),
        limit,
        drops,
    })
}

/// One of the attributes that follow an inet_diag_msg.
fn attribute(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut attributes = message.get(ANSWER..)?;
    loop {
        let len = usize::from(u16_at(attributes, 0)?);
        if u16_at(attributes, 2)? == wanted {
            return attributes.get(4..len);
        }
        attributes = attributes.get(len.max(4).next_multiple_of(4)..)?;
    }
}

fn addr(message: &[u8], family: u8, port: usize, ip: usize) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(message.get(port..port + 2)?.try_into().ok()?);
    let bytes: [u8; 16] = message.get(ip..ip + 16)?.try_into().ok()?;
    let ip: IpAddr = match libc::c_int::from(family) {
        libc::AF_INET => <[u8; 4]>::try_from(&bytes[..4]).ok()?.into(),
        libc::AF_INET6 => IpAddr::from(bytes).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn u16_at(text: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(text.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(text: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(text.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_may_have_any_number() {
        let mut message = vec![20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend(i32::MIN.to_ne_bytes());
        if cfg!(target_endian = "little") {
            assert!(read_messages(&message, &mut |_| Some(())).is_err());
        }
    }
}

#[cfg(fuzzing)]
pub(super) fn fuzz(bytes: &[u8]) {
    let mut read = |message: &[u8]| {
        let rows = [Kind::Tcp, Kind::Udp].map(|kind| read_row(message, kind));
        rows[0].is_some().then_some(())
    };
    let _ = read_messages(bytes, &mut read);
}
