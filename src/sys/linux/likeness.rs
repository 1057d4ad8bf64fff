//! What a socket was opened with, read back from it and given to another.
//!
//! The systemd units of sockets name most of these options (systemd.socket(5)), and a connection has
//! most of its listener's (kernel: sk_clone_lock, tcp_create_openreq_child).

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::filter::Filter;
use crate::sys::unix::{check, set_option, words};

// <linux/in.h>, <linux/in6.h>, <linux/tcp.h>, <linux/udp.h> and <asm/socket.h>, of which libc has
// a part for each target.
const IPPROTO_MPTCP: u32 = 262;
const IP_RECVORIGDSTADDR: libc::c_int = 20;
const IP_MINTTL: libc::c_int = 21;
const IP_MULTICAST_ALL: libc::c_int = 49;
const IPV6_RECVERR: libc::c_int = 25;
const IPV6_RECVORIGDSTADDR: libc::c_int = 74;
const IPV6_MINHOPCOUNT: libc::c_int = 73;
const IPV6_TRANSPARENT: libc::c_int = 75;
const IPV6_FREEBIND: libc::c_int = 78;
const TCP_NOTSENT_LOWAT: libc::c_int = 25;
const TCP_SAVE_SYN: libc::c_int = 27;
const TCP_FASTOPEN: libc::c_int = 23;
const TCP_FASTOPEN_NO_COOKIE: libc::c_int = 34;
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;

cfg_if::cfg_if! {
    if #[cfg(any(target_arch = "sparc", target_arch = "sparc64"))] {
        const SO_BUF_LOCK: libc::c_int = 0x51;
        const SO_BINDTOIFINDEX: libc::c_int = 0x41;
        const SO_MAX_PACING_RATE: libc::c_int = 0x31;
    } else {
        const SO_BUF_LOCK: libc::c_int = 72;
        const SO_BINDTOIFINDEX: libc::c_int = 62;
        const SO_MAX_PACING_RATE: libc::c_int = 47;
    }
}

/// An option that is read and set in one form.
#[derive(Debug)]
struct Name {
    level: libc::c_int,
    name: libc::c_int,
    word: &'static str,
}

macro_rules! names {
    ($level:expr => $($name:expr, $word:literal;)*) => {
        &[$(Name { level: $level, name: $name, word: $word }),*]
    };
}

/// In the order in which they are set: IP_TOS sets a priority too (ip(7)), and SO_RCVLOWAT makes the
/// receive buffer larger (kernel: tcp_set_rcvlowat).
///
/// Not here: SO_INCOMING_CPU, which each member has of its own, and what cannot be read, as multicast
/// memberships and TCP_MD5SIG.
#[rustfmt::skip]
const NAMES: &[&[Name]] = &[
    names! { libc::SOL_SOCKET => SO_BINDTOIFINDEX, "SO_BINDTOIFINDEX"; },
    // Before Linux 5.1, where there is no number. Behind it both are equal, and nothing is set.
    names! { libc::SOL_SOCKET => libc::SO_BINDTODEVICE, "SO_BINDTODEVICE"; },
    names! {
        libc::IPPROTO_IP =>
        libc::IP_FREEBIND, "IP_FREEBIND";
        libc::IP_TRANSPARENT, "IP_TRANSPARENT";
        libc::IP_TOS, "IP_TOS";
        libc::IP_TTL, "IP_TTL";
        IP_MINTTL, "IP_MINTTL";
        libc::IP_MTU_DISCOVER, "IP_MTU_DISCOVER";
        libc::IP_RECVERR, "IP_RECVERR";
        libc::IP_PKTINFO, "IP_PKTINFO";
        libc::IP_RECVTOS, "IP_RECVTOS";
        libc::IP_RECVTTL, "IP_RECVTTL";
        IP_RECVORIGDSTADDR, "IP_RECVORIGDSTADDR";
        libc::IP_MULTICAST_TTL, "IP_MULTICAST_TTL";
        libc::IP_MULTICAST_LOOP, "IP_MULTICAST_LOOP";
        libc::IP_MULTICAST_IF, "IP_MULTICAST_IF";
        IP_MULTICAST_ALL, "IP_MULTICAST_ALL";
    },
    names! {
        libc::IPPROTO_IPV6 =>
        IPV6_FREEBIND, "IPV6_FREEBIND";
        IPV6_TRANSPARENT, "IPV6_TRANSPARENT";
        libc::IPV6_TCLASS, "IPV6_TCLASS";
        libc::IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS";
        IPV6_MINHOPCOUNT, "IPV6_MINHOPCOUNT";
        libc::IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER";
        IPV6_RECVERR, "IPV6_RECVERR";
        libc::IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO";
        libc::IPV6_RECVTCLASS, "IPV6_RECVTCLASS";
        libc::IPV6_RECVHOPLIMIT, "IPV6_RECVHOPLIMIT";
        IPV6_RECVORIGDSTADDR, "IPV6_RECVORIGDSTADDR";
        libc::IPV6_MULTICAST_HOPS, "IPV6_MULTICAST_HOPS";
        libc::IPV6_MULTICAST_LOOP, "IPV6_MULTICAST_LOOP";
        libc::IPV6_MULTICAST_IF, "IPV6_MULTICAST_IF";
    },
    names! {
        libc::IPPROTO_TCP =>
        libc::TCP_NODELAY, "TCP_NODELAY";
        libc::TCP_KEEPIDLE, "TCP_KEEPIDLE";
        libc::TCP_KEEPINTVL, "TCP_KEEPINTVL";
        libc::TCP_KEEPCNT, "TCP_KEEPCNT";
        libc::TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT";
        TCP_FASTOPEN, "TCP_FASTOPEN";
        TCP_FASTOPEN_NO_COOKIE, "TCP_FASTOPEN_NO_COOKIE";
        TCP_SAVE_SYN, "TCP_SAVE_SYN";
        libc::TCP_SYNCNT, "TCP_SYNCNT";
        libc::TCP_LINGER2, "TCP_LINGER2";
        libc::TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT";
        libc::TCP_MAXSEG, "TCP_MAXSEG";
        libc::TCP_WINDOW_CLAMP, "TCP_WINDOW_CLAMP";
        TCP_NOTSENT_LOWAT, "TCP_NOTSENT_LOWAT";
        libc::TCP_CONGESTION, "TCP_CONGESTION";
    },
    names! {
        libc::IPPROTO_UDP =>
        UDP_SEGMENT, "UDP_SEGMENT";
        UDP_GRO, "UDP_GRO";
    },
    names! {
        libc::SOL_SOCKET =>
        libc::SO_MARK, "SO_MARK";
        libc::SO_PRIORITY, "SO_PRIORITY";
        libc::SO_KEEPALIVE, "SO_KEEPALIVE";
        libc::SO_LINGER, "SO_LINGER";
        libc::SO_BROADCAST, "SO_BROADCAST";
        libc::SO_DONTROUTE, "SO_DONTROUTE";
        libc::SO_OOBINLINE, "SO_OOBINLINE";
        libc::SO_RXQ_OVFL, "SO_RXQ_OVFL";
        libc::SO_TIMESTAMP, "SO_TIMESTAMP";
        libc::SO_TIMESTAMPNS, "SO_TIMESTAMPNS";
        libc::SO_BUSY_POLL, "SO_BUSY_POLL";
        SO_MAX_PACING_RATE, "SO_MAX_PACING_RATE";
        libc::SO_RCVTIMEO, "SO_RCVTIMEO";
        libc::SO_SNDTIMEO, "SO_SNDTIMEO";
        libc::SO_RCVLOWAT, "SO_RCVLOWAT";
    },
];

/// A value of up to 16 bytes: an int, a struct linger or timeval, or a name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Value {
    bytes: [u8; Self::MOST],
    len: usize,
}

impl Value {
    const MOST: usize = 16;

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn read(fd: BorrowedFd<'_>, option: &Name) -> io::Result<Self> {
        let mut bytes = [0; Self::MOST];
        let mut len = Self::MOST as libc::socklen_t;
        // SAFETY: the pointer and the length are those of `bytes`, into which the kernel writes at
        // most `len` bytes.
        let result = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                option.level,
                option.name,
                bytes.as_mut_ptr().cast(),
                &mut len,
            )
        };
        check(result)?;
        let len = (len as usize).min(Self::MOST);
        Ok(Self { bytes, len })
    }

    fn set(&self, fd: BorrowedFd<'_>, option: &Name) -> io::Result<()> {
        let bytes = self.bytes();
        // SAFETY: the pointer and the length are those of `bytes`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                option.level,
                option.name,
                bytes.as_ptr().cast(),
                bytes.len() as libc::socklen_t,
            )
        };
        check(result).map(drop)
    }
}

impl fmt::Display for Value {
    /// A number, a name, or nothing where it is neither.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes();
        match <[u8; 4]>::try_from(bytes) {
            Ok(number) => write!(f, " {}", i32::from_ne_bytes(number)),
            Err(_) => match std::str::from_utf8(bytes).map(|text| text.trim_end_matches('\0')) {
                Ok(name) if !name.is_empty() && !name.contains(char::is_control) => {
                    write!(f, " {name}")
                }
                _ => Ok(()),
            },
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.bytes(), f)
    }
}

/// The options of a socket.
#[derive(Clone, Debug)]
pub(crate) struct Likeness {
    is_mptcp: bool,
    values: Vec<(&'static Name, Value)>,
    received: Option<u32>,
    sent: Option<u32>,
    filter: Filter,
}

/// SO_RCVBUF or SO_SNDBUF: read twice as large as it was set (socket(7)).
struct Buffer {
    name: libc::c_int,
    /// Past the limit of the machine, with CAP_NET_ADMIN.
    forced: libc::c_int,
    /// Its bit in SO_BUF_LOCK (kernel: SOCK_SNDBUF_LOCK, SOCK_RCVBUF_LOCK).
    lock: u32,
    word: &'static str,
}

const RECEIVED: Buffer = Buffer {
    name: libc::SO_RCVBUF,
    forced: libc::SO_RCVBUFFORCE,
    lock: 2,
    word: "SO_RCVBUF",
};

const SENT: Buffer = Buffer {
    name: libc::SO_SNDBUF,
    forced: libc::SO_SNDBUFFORCE,
    lock: 1,
    word: "SO_SNDBUF",
};

impl Buffer {
    fn read(&self, fd: BorrowedFd<'_>) -> Option<u32> {
        number(fd, libc::SOL_SOCKET, self.name)
    }

    /// The size that was chosen for a socket. One that was not is left to the kernel, which makes
    /// that of TCP larger as it is needed, and of a chosen one never (kernel: tcp_rcv_space_adjust).
    fn chosen(&self, fd: BorrowedFd<'_>, is_udp: bool) -> Option<u32> {
        match number(fd, libc::SOL_SOCKET, SO_BUF_LOCK) {
            Some(locks) if locks & self.lock == 0 => None,
            // Before Linux 5.14 nothing tells; UDP's is as it was made.
            None if !is_udp => None,
            Some(_) | None => self.read(fd),
        }
    }

    fn give(&self, size: u32, fd: BorrowedFd<'_>) -> io::Result<()> {
        if self.read(fd) == Some(size) {
            return Ok(());
        }
        set_option(fd, libc::SOL_SOCKET, self.name, &(size / 2))?;
        // Cut to net.core.rmem_max or wmem_max.
        if self.read(fd) < Some(size) {
            set_option(fd, libc::SOL_SOCKET, self.forced, &(size / 2))?;
        }
        Ok(())
    }
}

impl Likeness {
    /// What this kernel does not know, or not of such a socket, is passed over.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let protocol = number(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL);
        let is_udp = number(fd, libc::SOL_SOCKET, libc::SO_TYPE) == Some(libc::SOCK_DGRAM as u32);
        let mut values = Vec::new();
        for option in NAMES.iter().copied().flatten() {
            match Value::read(fd, option) {
                Ok(value) => values.push((option, value)),
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(Self {
            is_mptcp: protocol == Some(IPPROTO_MPTCP),
            values,
            received: RECEIVED.chosen(fd, is_udp),
            sent: SENT.chosen(fd, is_udp),
            filter: Filter::of(fd),
        })
    }

    pub(crate) fn protocol(&self) -> Option<i32> {
        self.is_mptcp.then_some(IPPROTO_MPTCP as i32)
    }

    /// Sets what differs; the error begins with a clause that names the option.
    pub(crate) fn give(&self, to: BorrowedFd<'_>) -> Result<(), (String, io::Error)> {
        let refused = |what: String, error| {
            Err((
                format!("it cannot have {what} as the other members have"),
                error,
            ))
        };
        for (option, value) in &self.values {
            if Value::read(to, option).is_ok_and(|own| own == *value) {
                continue;
            }
            if let Err(error) = value.set(to, option) {
                return refused(format!("{}{value}", option.word), error);
            }
        }
        for (buffer, size) in [(RECEIVED, self.received), (SENT, self.sent)] {
            let Some(size) = size else { continue };
            if let Err(error) = buffer.give(size, to) {
                return refused(format!("{} {}", buffer.word, size / 2), error);
            }
        }
        match self.filter.give(to) {
            Ok(()) => Ok(()),
            Err(error) => refused("the socket filter".to_owned(), error),
        }
    }
}

fn number(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> Option<u32> {
    words::<1>(fd, level, name)
        .ok()
        .flatten()
        .map(|[word]| word)
}
