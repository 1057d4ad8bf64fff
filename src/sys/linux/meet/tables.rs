//! The kernel's tables of UNIX sockets that listen: sock_diag(7), or /proc/net/unix.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};

use super::is_named;
use crate::sys::unix::check;

// <linux/netlink.h>, <linux/sock_diag.h> and <linux/unix_diag.h>, which libc has for some targets.
const NETLINK_SOCK_DIAG: libc::c_int = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const SHOW_NAME: u32 = 1;
const SHOW_UID: u32 = 1 << 6;
const ATTRIBUTE_NAME: u16 = 0;
const ATTRIBUTE_UID: u16 = 7;

/// States are TCP's (<net/tcp_states.h>).
const LISTEN: u8 = 10;

/// The bytes of struct nlmsghdr, unix_diag_req and unix_diag_msg.
const HEADER: usize = 16;
const QUESTION: usize = 24;
const ANSWER: usize = 16;

/// A stream socket that listens at an abstract address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    /// The user that opened it; None where the table does not tell. Linux 5.3 and later.
    pub(super) uid: Option<u32>,
}

/// The rendezvous of that name in this thread's network namespace.
///
/// Fails where no table can be read.
pub(super) fn entries(name: &[u8]) -> io::Result<Vec<Entry>> {
    dump(name).or_else(|_| listed(name))
}

/// From sock_diag(7), which is refused where there is no such module or a filter forbids it.
pub(super) fn dump(name: &[u8]) -> io::Result<Vec<Entry>> {
    // SAFETY: socket touches no memory.
    let fd = check(unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            NETLINK_SOCK_DIAG,
        )
    })?;
    // SAFETY: the kernel just made this descriptor, and nothing else knows it.
    let mut socket = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    socket.write_all(&question())?;
    let mut entries = Vec::new();
    // kernel: netlink_dump makes no message longer than 32 KiB, and has it ready before each read.
    let mut buf = vec![0; 32 << 10];
    loop {
        let len = socket.read(&mut buf)?;
        let text = buf.get(..len).unwrap_or_default();
        let goes_on = read_messages(text, |entry| {
            entries.extend(Some(entry).filter(|entry| is_named(&entry.name, name)));
        })?;
        if !goes_on {
            return Ok(entries);
        }
    }
}

fn question() -> Vec<u8> {
    let mut text = Vec::with_capacity(HEADER + QUESTION);
    text.extend(((HEADER + QUESTION) as u32).to_ne_bytes());
    text.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    text.extend(REQUEST_DUMP.to_ne_bytes());
    text.extend([0; 8]);
    text.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    text.extend((1_u32 << LISTEN).to_ne_bytes());
    // Any inode.
    text.extend([0; 4]);
    text.extend((SHOW_NAME | SHOW_UID).to_ne_bytes());
    // Any cookie.
    text.resize(HEADER + QUESTION, 0);
    text
}

/// Reads what one read(2) returned; false where it was the end.
///
/// Fails with the kernel's own error, and with InvalidData where the text is broken.
pub(super) fn read_messages(mut text: &[u8], mut read: impl FnMut(Entry)) -> io::Result<bool> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    while !text.is_empty() {
        let len = u32_at(text, 0).ok_or_else(broken)? as usize;
        let message = text.get(HEADER..len).ok_or_else(broken)?;
        match u16_at(text, 4) {
            Some(SOCK_DIAG_BY_FAMILY) => {
                // Those without a name in the abstract are nothing to connect to here.
                let attributes = message.get(ANSWER..).ok_or_else(broken)?;
                if let Some(entry) = read_entry(message, attributes).ok_or_else(broken)? {
                    read(entry);
                }
            }
            Some(DONE) => return Ok(false),
            Some(ERROR) => {
                let errno = u32_at(message, 0).ok_or_else(broken)?;
                return Err(io::Error::from_raw_os_error((errno as i32).wrapping_neg()));
            }
            _ => {}
        }
        text = text.get(aligned(len)..).unwrap_or_default();
    }
    Ok(true)
}

/// None where the message is broken, Some(None) for a socket that is no rendezvous.
fn read_entry(message: &[u8], mut attributes: &[u8]) -> Option<Option<Entry>> {
    let [_, kind, state, ..] = *message else {
        return None;
    };
    let (mut name, mut uid) = (None, None);
    while !attributes.is_empty() {
        let len = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(4..len)?;
        match u16_at(attributes, 2)? {
            ATTRIBUTE_NAME => name = value.strip_prefix(b"\0"),
            ATTRIBUTE_UID => uid = Some(u32_at(value, 0)?),
            _ => {}
        }
        attributes = attributes.get(aligned(len)..).unwrap_or_default();
    }
    let is_rendezvous = libc::c_int::from(kind) == libc::SOCK_STREAM && state == LISTEN;
    Some(name.filter(|_| is_rendezvous).map(|name| Entry {
        name: name.to_vec(),
        uid,
    }))
}

/// From /proc/net/unix, which tells no user.
pub(super) fn listed(name: &[u8]) -> io::Result<Vec<Entry>> {
    // /proc/net would be the namespace of the process's first thread.
    let mut table = BufReader::new(File::open("/proc/thread-self/net/unix")?);
    let mut entries = Vec::new();
    let mut line = Vec::new();
    while table.read_until(b'\n', &mut line)? != 0 {
        let entry = read_line(&line, name).map(|name| Entry { name, uid: None });
        entries.extend(entry);
        line.clear();
    }
    Ok(entries)
}

/// The name of a rendezvous of that name, from a line of the table.
///
/// `Num RefCount Protocol Flags Type St Inode Path`: a path in the abstract begins with `@`, and has
/// one for each zero byte too (kernel: unix_seq_show). A name is not escaped, so that one with a line
/// feed in it makes lines of its own: what is read here is only a name to try.
pub(super) fn read_line(line: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    /// Flags: __SO_ACCEPTCON.
    const LISTENS: &[u8] = b"00010000";
    /// Type: SOCK_STREAM, but on MIPS, where the numbers are others.
    const STREAM: u32 = libc::SOCK_STREAM as u32;
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let at = line.iter().position(|&byte| byte == b'@')?;
    let (columns, path) = line.split_at_checked(at)?;
    let mut columns = columns
        .split(u8::is_ascii_whitespace)
        .filter(|column| !column.is_empty());
    let flags = columns.nth(3)?;
    let kind = std::str::from_utf8(columns.next()?).ok()?;
    if flags != LISTENS || u32::from_str_radix(kind, 16) != Ok(STREAM) {
        return None;
    }
    // After the state and the inode comes the path.
    if columns.count() != 2 {
        return None;
    }
    let shown: Vec<u8> = name
        .iter()
        .map(|&byte| if byte == 0 { b'@' } else { byte })
        .collect();
    let path = path.strip_prefix(b"@")?;
    let suffix = path.strip_prefix(&shown[..])?;
    is_named(path, &shown).then(|| [name, suffix].concat())
}

/// Where the next message or attribute begins.
fn aligned(len: usize) -> usize {
    // One that is shorter than its own header would be read for ever.
    len.max(4).checked_next_multiple_of(4).unwrap_or(usize::MAX)
}

fn u16_at(text: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(text.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(text: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(text.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
