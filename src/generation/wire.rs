//! What two generations say to each other: words, each in a frame of its own, some with descriptors.
//!
//! Every frame begins with the same eleven bytes: nine that say what this is, the version, and the code
//! of the word. That head, [`Word::Hello`] and [`Word::Refused`] are the same in every version, so that
//! two processes of different versions can tell each other why they do not go on.

use std::io;
use std::time::Instant;

use crate::group::Lent;
use crate::sys::{self, AsFd, BorrowedFd, Kind, OwnedFd, pass};

const MAGIC: &[u8; 9] = b"reuseport";

/// The versions that this crate speaks, the oldest and the newest.
pub(crate) const VERSIONS: (u8, u8) = (1, 1);

/// The codes are part of the version: none is ever given another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Word {
    /// The successor: I am here, and speak the versions from the first byte to the second.
    Hello = 1,
    /// The predecessor: what follows is text; I do not go on.
    Refused = 2,
    /// The predecessor: what follows is text; I have to wait for something.
    Wait = 3,
    /// The predecessor: I serve no more, connect again.
    Again = 4,
    /// The predecessor: I have no members; here is the rendezvous.
    Yield = 5,
    /// The predecessor, with the sockets of the group and the rendezvous: these are they.
    Members = 6,
    /// The successor, with its own sockets and their numbers: these stand behind yours.
    Mine = 7,
    /// The predecessor: I know them.
    Accepted = 8,
    /// The predecessor: another successor takes your place; its process follows.
    Superseded = 9,
    /// The successor: I give up, and my sockets are out of the group.
    GivingUp = 10,
    /// The successor: I am about to take over; a number follows, where it does so with several addresses together.
    Taking = 11,
    /// The predecessor: I leave the kernel's program to you.
    Go = 12,
    /// The successor: the kernel refused, and I have not taken over.
    Back = 13,
    /// The successor: nothing more comes to you.
    Empty = 14,
    /// The predecessor: my workers have closed their sockets, or wait for you to remove them.
    Closed = 15,
    /// I have what you sent, and nothing of it is left to do.
    Taken = 16,
    /// The successor: give my sockets that part of what is new, and go on with the rest; eight bytes follow.
    Share = 17,
    /// The predecessor: they get that part from here on; eight bytes follow.
    Shared = 18,
    /// The predecessor: what follows is text; they get what they got before.
    Unshared = 19,
    /// The successor: give my sockets nothing new any more; I accept what has come, and give up.
    Return = 20,
    /// The predecessor: they get nothing from here on.
    Returned = 21,
    /// The successor: these of my sockets have been closed, counted in the order in which you heard of them.
    Gone = 22,
}

impl Word {
    const ALL: [Self; 22] = [
        Self::Hello,
        Self::Refused,
        Self::Wait,
        Self::Again,
        Self::Yield,
        Self::Members,
        Self::Mine,
        Self::Accepted,
        Self::Superseded,
        Self::GivingUp,
        Self::Taking,
        Self::Go,
        Self::Back,
        Self::Empty,
        Self::Closed,
        Self::Taken,
        Self::Share,
        Self::Shared,
        Self::Unshared,
        Self::Return,
        Self::Returned,
        Self::Gone,
    ];

    fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|word| *word as u8 == code)
    }
}

/// A word with what follows it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) word: Word,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
    /// The process that sent it, where the system tells.
    pub(crate) pid: Option<u32>,
}

/// The bytes of a word.
pub(crate) fn frame(word: Word, body: &[u8]) -> Vec<u8> {
    let head = [VERSIONS.1, word as u8];
    [MAGIC.as_slice(), &head, body].concat()
}

pub(crate) fn say(
    to: &impl AsFd,
    word: Word,
    body: &[u8],
    until: Option<Instant>,
) -> io::Result<()> {
    pass::send(sys::borrow(to), &frame(word, body), &[], until)
}

pub(crate) fn hear(from: &impl AsFd, until: Option<Instant>) -> io::Result<Message> {
    let frame = pass::receive(sys::borrow(from), until)?;
    let (word, body) = parse(&frame.bytes)?;
    Ok(Message {
        word,
        body: body.to_vec(),
        fds: frame.fds,
        pid: frame.pid,
    })
}

fn broken(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// The word of a frame, and what follows it.
pub(crate) fn parse(bytes: &[u8]) -> io::Result<(Word, &[u8])> {
    let Some([version, code, body @ ..]) = bytes.strip_prefix(MAGIC) else {
        return Err(broken("the other process speaks another language"));
    };
    let word = Word::of(*code);
    let (oldest, newest) = VERSIONS;
    match word {
        // These are the same in every version.
        Some(word @ (Word::Hello | Word::Refused)) => Ok((word, body)),
        _ if !(oldest..=newest).contains(version) => Err(broken(format!(
            "the other process speaks version {version} of the hand-over, and this one {}",
            versions(VERSIONS)
        ))),
        Some(word) => Ok((word, body)),
        None => Err(broken(format!(
            "the other process said something unknown ({code})"
        ))),
    }
}

fn versions((oldest, newest): (u8, u8)) -> String {
    match oldest == newest {
        true => newest.to_string(),
        false => format!("{oldest} to {newest}"),
    }
}

/// Refuses a peer that speaks none of this crate's versions.
pub(crate) fn check_versions(body: &[u8]) -> io::Result<()> {
    let &[oldest, newest, ..] = body else {
        return Err(broken(
            "the other process did not say which versions it speaks",
        ));
    };
    if oldest <= VERSIONS.1 && VERSIONS.0 <= newest {
        return Ok(());
    }
    Err(broken(format!(
        "one process speaks version {} of the hand-over, and the other {}",
        versions((oldest, newest)),
        versions(VERSIONS)
    )))
}

/// The text that follows a word.
pub(crate) fn text(body: &[u8]) -> String {
    /// As long as any sentence of this crate.
    const LONGEST: usize = 1000;
    let cut = body.get(..LONGEST).unwrap_or(body);
    let text = String::from_utf8_lossy(cut);
    text.chars().filter(|char| !char.is_control()).collect()
}

/// The sockets of a group on their way to another process.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) kind: Kind,
    /// Whether the members of the group have one queue, and so are one socket.
    pub(crate) one_queue: bool,
    /// In the kernel's order: the number, none where it is no member; whether the place is exact; and
    /// the socket.
    pub(crate) members: Vec<(Option<usize>, bool, OwnedFd)>,
    /// What else is passed on: the rendezvous.
    pub(crate) extra: Vec<OwnedFd>,
}

/// A rendezvous is a socket, and in a folder a lock too.
const EXTRAS: usize = 2;

/// In the place of a number.
const NO_MEMBER: u32 = u32::MAX;

pub(crate) fn send_members(
    to: &impl AsFd,
    kind: Kind,
    one_queue: bool,
    members: &[Lent],
    extra: &[BorrowedFd<'_>],
    until: Option<Instant>,
) -> io::Result<()> {
    let mut body = vec![match (kind, one_queue) {
        (Kind::Tcp, false) => 0,
        (Kind::Udp, false) => 1,
        (Kind::Tcp, true) => 2,
        (Kind::Udp, true) => 3,
    }];
    for member in members {
        let number = match member.number.map(u32::try_from) {
            None => NO_MEMBER,
            Some(number) => number.map_err(|_| io::ErrorKind::InvalidInput)?,
        };
        body.extend(number.to_le_bytes());
        body.push(u8::from(member.exact));
    }
    let fds = members.iter().map(|member| sys::borrow(&*member.fd));
    let fds: Vec<_> = fds.chain(extra.iter().copied()).collect();
    pass::send(sys::borrow(to), &frame(Word::Members, &body), &fds, until)
}

/// The numbers are those that stand in datagrams, in the order of the sockets; none where none do.
pub(crate) fn send_mine(
    to: &impl AsFd,
    fds: &[BorrowedFd<'_>],
    numbers: &[usize],
    until: Option<Instant>,
) -> io::Result<()> {
    let body = pairs(numbers);
    pass::send(sys::borrow(to), &frame(Word::Mine, &body), fds, until)
}

/// Numbers of two bytes each: a group has no more members.
pub(crate) fn pairs(numbers: &[usize]) -> Vec<u8> {
    let pairs = numbers.iter().map(|number| (*number as u16).to_le_bytes());
    pairs.flatten().collect()
}

/// What follows [`Word::Mine`] and [`Word::Gone`].
pub(crate) fn numbers(body: &[u8]) -> Vec<usize> {
    let numbers = body.chunks_exact(2);
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |all, byte| all << 8 | usize::from(*byte))
    };
    numbers.map(number).collect()
}

/// What follows [`Word::Share`] and [`Word::Shared`]; none where it is no part of a whole.
pub(crate) fn part(body: &[u8]) -> Option<f64> {
    let part = body.first_chunk().map(|bytes| f64::from_le_bytes(*bytes));
    part.filter(|part| (0.0..=1.0).contains(part))
}

impl Parcel {
    /// What follows [`Word::Members`].
    pub(crate) fn parse(body: &[u8], fds: Vec<OwnedFd>) -> io::Result<Self> {
        let broken = || broken("the message is broken");
        let (kind, one_queue, body) = match body {
            [0, body @ ..] => (Kind::Tcp, false, body),
            [1, body @ ..] => (Kind::Udp, false, body),
            [2, body @ ..] => (Kind::Tcp, true, body),
            [3, body @ ..] => (Kind::Udp, true, body),
            _ => return Err(broken()),
        };
        let entries = body.chunks_exact(5);
        let count = entries.len();
        if !entries.remainder().is_empty() || !(count..=count + EXTRAS).contains(&fds.len()) {
            return Err(broken());
        }
        let mut fds = fds.into_iter();
        let mut members = Vec::with_capacity(count);
        for (entry, fd) in entries.zip(fds.by_ref().take(count)) {
            let &[a, b, c, d, exact] = entry else {
                return Err(broken());
            };
            let number = match u32::from_le_bytes([a, b, c, d]) {
                NO_MEMBER => None,
                number => Some(number as usize),
            };
            members.push((number, exact != 0, fd));
        }
        Ok(Self {
            kind,
            one_queue,
            members,
            extra: fds.collect(),
        })
    }
}

/// Hears whatever a stream has.
#[cfg(fuzzing)]
pub(crate) fn fuzz(stream: &impl AsFd, until: Instant) {
    while let Ok(message) = hear(stream, Some(until)) {
        let _ = check_versions(&message.body);
        let _ = (part(&message.body), numbers(&message.body));
        assert!(!text(&message.body).contains(char::is_control));
        let _ = Parcel::parse(&message.body, message.fds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_for_one_word_each() {
        for (at, word) in Word::ALL.into_iter().enumerate() {
            assert_eq!(word as usize, at + 1);
            assert_eq!(
                parse(&frame(word, b"rest")).unwrap(),
                (word, b"rest".as_slice())
            );
        }
        assert!(parse(b"reuseport\x01\xff").is_err());
        assert!(parse(b"reuseport\x01").is_err());
        assert!(parse(b"GET / HTTP/1.1").is_err());
    }

    #[test]
    fn a_refusal_and_a_greeting_are_read_in_every_version() {
        for version in 0..=255 {
            let bytes = [
                b"reuseport".as_slice(),
                &[version, Word::Refused as u8],
                b"no",
            ]
            .concat();
            assert_eq!(parse(&bytes).unwrap(), (Word::Refused, b"no".as_slice()));
            let bytes = [b"reuseport".as_slice(), &[version, Word::Go as u8]].concat();
            assert_eq!(parse(&bytes).is_ok(), version == 1);
        }
        assert!(check_versions(&[1, 1]).is_ok());
        assert!(check_versions(&[0, 200]).is_ok());
        assert!(check_versions(&[2, 3]).is_err());
        assert!(check_versions(&[0, 0]).is_err());
        assert!(check_versions(&[1]).is_err());
    }

    #[test]
    fn numbers_that_are_announced_take_no_memory() {
        let body = [[0].as_slice(), &[0xfe, 0xff, 0xff, 0x7f, 1]].concat();
        assert!(Parcel::parse(&body, Vec::new()).is_err());
        assert!(Parcel::parse(&[], Vec::new()).is_err());
        assert!(Parcel::parse(&[9], Vec::new()).is_err());
        for code in 0..4 {
            let parcel = Parcel::parse(&[code], Vec::new()).unwrap();
            assert_eq!(parcel.members.len(), 0);
            assert_eq!(
                (parcel.kind == Kind::Udp, parcel.one_queue),
                (code % 2 == 1, code >= 2)
            );
        }
    }
}
