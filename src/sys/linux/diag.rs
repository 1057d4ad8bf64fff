//! The kernel's own dump of sockets (sock_diag(7)), which needs no privilege either.
//!
//! It knows more than the tables, and picks the port in the kernel: with 18,000 connections on the
//! machine the tables take tens of milliseconds, and this takes one.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd};

use super::table::{LISTEN, Row};
use crate::sys::Kind;
use crate::sys::unix::check;

// <linux/netlink.h>, <linux/sock_diag.h> and <linux/inet_diag.h>, which libc has for some targets.
const NETLINK_SOCK_DIAG: libc::c_int = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const INET_DIAG_SKMEMINFO: u16 = 7;

/// ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, LISTEN and CLOSING: in the
/// other states nobody has a descriptor of a socket that is on a port.
const HELD: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << LISTEN | 1 << 11;

/// The bytes of struct nlmsghdr, inet_diag_req_v2 and inet_diag_msg.
const HEADER: usize = 16;
const QUESTION: usize = 56;
const ANSWER: usize = 72;

/// Every listener and connection, or every UDP socket, that is bound to the port.
pub(super) fn rows(kind: Kind, port: u16) -> io::Result<Vec<Row>> {
    let (protocol, states) = match kind {
        Kind::Tcp => (libc::IPPROTO_TCP, HELD),
        Kind::Udp => (libc::IPPROTO_UDP, u32::MAX),
    };
    let mut rows = Vec::new();
    dump(protocol, states, port, |message| {
        rows.push(read_row(message, kind)?);
        Some(())
    })?;
    rows.retain(|row| row.local.port() == port);
    Ok(rows)
}

/// The cookies of the handshakes on the port that are under way.
pub(super) fn half_open(port: u16) -> io::Result<HashSet<u64>> {
    const SYN_RECV: u32 = 1 << 3;
    let mut cookies = HashSet::new();
    dump(libc::IPPROTO_TCP, SYN_RECV, port, |message| {
        let local = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
        let cookie = u64::from_ne_bytes(message.get(44..52)?.try_into().ok()?);
        cookies.extend(Some(cookie).filter(|_| local == port));
        Some(())
    })?;
    Ok(cookies)
}

/// Hands each message of both families to `read`, which returns None for one that is broken.
fn dump(
    protocol: libc::c_int,
    states: u32,
    port: u16,
    mut read: impl FnMut(&[u8]) -> Option<()>,
) -> io::Result<()> {
    // SAFETY: socket touches no memory.
    let fd = check(unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            NETLINK_SOCK_DIAG,
        )
    })?;
    // SAFETY: the kernel just made this descriptor, and nobody else knows it.
    let mut socket = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    for family in [libc::AF_INET, libc::AF_INET6] {
        socket.write_all(&question(protocol, states, family as u8, port))?;
        // kernel: netlink_dump makes no message longer than 32 KiB.
        let mut buf = vec![0; 32 << 10];
        loop {
            let len = socket.read(&mut buf)?;
            if !read_messages(&buf[..len], &mut read)? {
                break;
            }
        }
    }
    Ok(())
}

fn question(protocol: libc::c_int, states: u32, family: u8, port: u16) -> Vec<u8> {
    let mut text = Vec::with_capacity(HEADER + QUESTION);
    text.extend(((HEADER + QUESTION) as u32).to_ne_bytes());
    text.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    text.extend(REQUEST_DUMP.to_ne_bytes());
    text.extend([0; 8]);
    text.extend([family, protocol as u8, 1 << (INET_DIAG_SKMEMINFO - 1), 0]);
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
                return Err(io::Error::from_raw_os_error(-(errno as i32)));
            }
            _ => {}
        }
        text = text.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn read_row(message: &[u8], kind: Kind) -> Option<Row> {
    let family = *message.first()?;
    let state = *message.get(1)?;
    let memory = memory(message.get(ANSWER..)?);
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

/// The receive buffer's limit and the drops, among the attributes of a message.
fn memory(mut attributes: &[u8]) -> Option<(u32, u32)> {
    loop {
        let len = usize::from(u16_at(attributes, 0)?);
        if u16_at(attributes, 2)? == INET_DIAG_SKMEMINFO {
            let memory = attributes.get(4..len)?;
            return Some((u32_at(memory, 4)?, u32_at(memory, 32)?));
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
