//! What one process says to the next when it gives the members of a group away.

use std::io;
use std::net::SocketAddr;

use crate::roster::Shared;
use crate::sys::{self, AsFd, Kind, OwnedFd, pass};
use crate::{Error, adopt};

/// The first bytes of every message, and the version of what follows.
const MAGIC: &[u8; 9] = b"reuseport";
const VERSION: u8 = 1;

/// What is said, each in a message of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The next process: I am here.
    Hello,
    /// The one before, with the members' sockets: these are they.
    Members,
    /// The next process: your members are empty, let them go.
    Settled,
    /// The one before: they are gone.
    Gone,
    /// The next process: I have what you sent, and nothing of it is left to do.
    Taken,
    /// The one before: nothing can be handed over, now or later.
    Refused,
}

impl Word {
    const ALL: [Self; 6] = [
        Self::Hello,
        Self::Members,
        Self::Settled,
        Self::Gone,
        Self::Taken,
        Self::Refused,
    ];

    fn code(self) -> u8 {
        self as u8
    }
}

pub(crate) fn say(to: &impl AsFd, word: Word) -> io::Result<()> {
    pass::send(sys::borrow(to), &head(word), &[])
}

fn head(word: Word) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([VERSION, word.code()]);
    bytes
}

/// Waits for a message; fails where it is another than that.
pub(crate) fn hear(from: &impl AsFd, word: Word) -> io::Result<()> {
    let (bytes, _) = pass::receive(sys::borrow(from))?;
    body(&bytes, word).map(drop)
}

/// What follows the head of a message.
fn body(bytes: &[u8], word: Word) -> io::Result<&[u8]> {
    let broken = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    match bytes.strip_prefix(MAGIC) {
        Some([VERSION, code, body @ ..]) if *code == word.code() => Ok(body),
        Some([VERSION, code, ..]) => {
            let other = Word::ALL.into_iter().find(|other| other.code() == *code);
            Err(broken(match other {
                Some(other) => {
                    format!("the other process said {other:?}, and {word:?} was expected")
                }
                None => format!("the other process said something unknown ({code})"),
            }))
        }
        Some([version, ..]) => Err(broken(format!(
            "the other process speaks version {version} of the hand-over, and this one {VERSION}"
        ))),
        _ => Err(broken(
            "the other process speaks another language".to_owned(),
        )),
    }
}

/// The members of a group on their way from one process to the next.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) kind: Kind,
    /// The process that sends them.
    pub(crate) pid: u32,
    /// Each with its number, in the kernel's order.
    pub(crate) members: Vec<(usize, OwnedFd)>,
    /// What else is passed on.
    pub(crate) extra: Option<OwnedFd>,
}

impl Parcel {
    pub(crate) fn send(&self, to: &impl AsFd) -> io::Result<()> {
        let mut bytes = head(Word::Members);
        bytes.push(match self.kind {
            Kind::Tcp => 0,
            Kind::Udp => 1,
        });
        bytes.extend(self.pid.to_le_bytes());
        for (number, _) in &self.members {
            let number = u32::try_from(*number).map_err(|_| io::ErrorKind::InvalidInput)?;
            bytes.extend(number.to_le_bytes());
        }
        let members = self.members.iter().map(|(_, fd)| fd);
        let fds: Vec<_> = members.chain(&self.extra).map(sys::borrow).collect();
        pass::send(sys::borrow(to), &bytes, &fds)
    }

    pub(crate) fn receive(from: &impl AsFd) -> io::Result<Self> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "the message is broken");
        let (bytes, fds) = pass::receive(sys::borrow(from))?;
        let body = body(&bytes, Word::Members)?;
        let (kind, body) = match body {
            [0, body @ ..] => (Kind::Tcp, body),
            [1, body @ ..] => (Kind::Udp, body),
            _ => return Err(broken()),
        };
        let words = body.chunks_exact(4);
        let is_whole = words.remainder().is_empty();
        let words = words.filter_map(|word| Some(u32::from_le_bytes(word.try_into().ok()?)));
        let words: Vec<u32> = words.collect();
        let [pid, numbers @ ..] = &words[..] else {
            return Err(broken());
        };
        if !is_whole || !(numbers.len()..=numbers.len() + 1).contains(&fds.len()) {
            return Err(broken());
        }
        let mut fds = fds.into_iter();
        let members = numbers
            .iter()
            .map(|&number| number as usize)
            .zip(fds.by_ref().take(numbers.len()))
            .collect();
        Ok(Self {
            kind,
            pid: *pid,
            members,
            extra: fds.next(),
        })
    }

    /// The address that all members share; refuses what is no group of that kind.
    pub(crate) fn check(&self, kind: Kind) -> Result<SocketAddr, Error> {
        let cannot = "cannot take the members of a group over";
        if self.kind != kind {
            let (is, meant) = (self.kind.name(), kind.name());
            let why = format!("they are {is} sockets, and {meant} was meant");
            return Err(Error::invalid(cannot, why));
        }
        let mut group = None;
        for (number, fd) in &self.members {
            let addr = adopt::look(fd, kind)?;
            let first = *group.get_or_insert(addr);
            if addr != first {
                let why = format!("member {number} is on {addr}, and the group on {first}");
                return Err(Error::invalid(cannot, why).at(addr));
            }
        }
        group.ok_or_else(|| Error::invalid(cannot, "there is none"))
    }
}

/// Refuses a process of another user: it could send and take anything.
pub(crate) fn check_peer(socket: &impl AsFd) -> io::Result<()> {
    let peer = pass::peer(sys::borrow(socket))?;
    let me = sys::user();
    if peer.uid == me {
        return Ok(());
    }
    let why = format!(
        "the other process is user {}'s, and this one user {me}'s",
        peer.uid
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

fn check_mode(socket: &impl AsFd, what: &str) -> Result<(), Error> {
    match sys::is_blocking(sys::borrow(socket)) {
        true => Ok(()),
        false => Err(Error::invalid(what.to_owned(), "the stream does not block")),
    }
}

pub(crate) fn hand_over(roster: &Shared, to: &impl AsFd) -> Result<(), Error> {
    let addr = roster.table().addr();
    let what = format!("cannot hand the group on {addr} over");
    let failed = |error: io::Error| {
        let reason = pass::reason(&error);
        Error::system(what.clone(), error).at(addr).why(reason)
    };
    check_mode(to, &what)?;
    check_peer(to).map_err(failed)?;
    let Some(members) = roster.table().give_away()? else {
        return Err(Error::invalid(what, "a member is leaving").at(addr));
    };
    let parcel = Parcel {
        kind: roster.table().kind(),
        pid: std::process::id(),
        members,
        extra: None,
    };
    let given = parcel.send(to).and_then(|()| hear(to, Word::Taken));
    drop(parcel);
    match given {
        Ok(()) => {
            drop(roster.table().forget());
            Ok(())
        }
        Err(error) => {
            roster.table().take_back()?;
            Err(failed(error))
        }
    }
}

/// A group that has arrived.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) addr: SocketAddr,
    pub(crate) members: Vec<(usize, OwnedFd)>,
}

pub(crate) fn receive(from: &impl AsFd, kind: Kind) -> Result<Received, Error> {
    let what = "cannot receive a group";
    let failed = |error: io::Error| {
        let reason = pass::reason(&error);
        Error::system(what, error).why(reason)
    };
    check_mode(from, what)?;
    check_peer(from).map_err(failed)?;
    let parcel = Parcel::receive(from).map_err(failed)?;
    let addr = parcel.check(kind)?;
    say(from, Word::Taken).map_err(failed)?;
    Ok(Received {
        addr,
        members: parcel.members,
    })
}
