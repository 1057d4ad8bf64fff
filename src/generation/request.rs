//! What a successor asks of the process that serves: its members.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::wire::{self, Message, Parcel, VERSIONS, Word};
use crate::error::{self, Error};
use crate::open::{Opening, Options, Purpose};
use crate::steering::Spread;
use crate::sys::{self, OwnedFd, meet, pass};
use crate::trace;

/// How long it may say nothing: it answers at once, unless it hangs.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// As [`SILENCE`], where the process has ended that opened the rendezvous.
const SILENCE_OF_THE_DEAD: Duration = Duration::from_secs(2);

/// What came of asking the process that serves.
pub(super) enum Answer {
    Members(Parcel, Option<u32>),
    /// It serves no more, and another process may.
    Again,
    /// It has hung up without a word.
    HungUp(Option<u32>),
}

/// What is the same in every try.
pub(super) struct Request<'a> {
    pub(super) options: &'a Options,
    pub(super) opening: &'a Opening<'a>,
    pub(super) place: meet::Place,
    pub(super) owner: u32,
    /// The spread that was asked for; `options` has what this system makes of it.
    pub(super) spread: Spread,
    pub(super) n: usize,
    pub(super) until: Instant,
}

impl Request<'_> {
    pub(super) fn addr(&self) -> SocketAddr {
        self.opening.addr()
    }

    pub(super) fn cannot(&self) -> String {
        format!("cannot open a generation on {}", self.addr())
    }

    pub(super) fn refused(&self, kind: io::ErrorKind, why: impl Into<String>) -> Error {
        Error::refused(kind, self.cannot(), why.into()).at(self.addr())
    }

    pub(super) fn failed(&self, error: io::Error, why: &'static str) -> Error {
        let reason = pass::reason(&error);
        Error::system(self.cannot(), error)
            .at(self.addr())
            .why(Some(reason.unwrap_or(why)))
    }
}

/// Asks the process that serves for its members.
pub(super) fn ask(request: &Request<'_>, line: &OwnedFd) -> Result<Answer, Error> {
    let mut pid = pass::peer(sys::borrow(line)).ok().and_then(|peer| peer.pid);
    // Of several generations the first has opened the rendezvous, and the last answers there.
    let silence = match pid.is_some_and(has_ended) {
        true => SILENCE_OF_THE_DEAD,
        false => SILENCE,
    };
    let soon = || Some(request.until.min(Instant::now() + silence));
    let mut waits_for = None;
    let (oldest, newest) = VERSIONS;
    let said = wire::say(line, Word::Hello, &[oldest, newest], soon());
    let mut is_told = false;
    loop {
        if !is_told && said.is_ok() && !answers_soon(line) {
            let why = waits_for.as_deref().unwrap_or("it does not answer");
            trace::waits(request.addr(), &process(pid), why);
            is_told = true;
        }
        let message = match &said {
            Ok(()) => wire::hear(
                line,
                if waits_for.is_some() {
                    Some(request.until)
                } else {
                    soon()
                },
            ),
            Err(error) => Err(error::copy(error)),
        };
        let Message {
            word,
            body,
            fds,
            pid: sender,
        } = match message {
            Ok(message) => message,
            Err(error) => return no_answer(request, error, pid, waits_for),
        };
        pid = sender.or(pid);
        match word {
            Word::Members => {
                let parcel = Parcel::parse(&body, fds);
                let parcel =
                    parcel.map_err(|error| request.failed(error, "what it sent is broken"))?;
                return Ok(Answer::Members(parcel, pid));
            }
            Word::Wait => waits_for = Some(wire::text(&body)),
            Word::Again | Word::Yield => return Ok(Answer::Again),
            Word::Refused => {
                let why = format!("{} refuses: {}", process(pid), wire::text(&body));
                return Err(request.refused(io::ErrorKind::ConnectionRefused, why));
            }
            other => {
                let why = format!(
                    "{} said {other:?}, and its members were expected",
                    process(pid)
                );
                return Err(request.refused(io::ErrorKind::InvalidData, why));
            }
        }
    }
}

/// Whether an answer is there within a second.
fn answers_soon(line: &OwnedFd) -> bool {
    let until = Instant::now() + Duration::from_secs(1);
    let ready = sys::wait::poll(&[sys::borrow(line)], Some(until));
    ready.is_ok_and(|ready| ready.contains(&true))
}

/// Whether a process has surely ended.
fn has_ended(pid: u32) -> bool {
    let tells = sys::process_name(std::process::id()).is_some();
    tells && sys::process_name(pid).is_none()
}

/// The word for a process in a sentence.
pub(super) fn process(pid: Option<u32>) -> String {
    match pid.map(|pid| (pid, sys::process_name(pid))) {
        Some((pid, Some(name))) => format!("process {pid} ({name})"),
        Some((pid, None)) => format!("process {pid}"),
        None => "the process that serves".to_owned(),
    }
}

fn no_answer(
    request: &Request<'_>,
    error: io::Error,
    pid: Option<u32>,
    waits_for: Option<String>,
) -> Result<Answer, Error> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof};
    match (error.kind(), waits_for) {
        // It has been relieved, or has died, since it was asked.
        (BrokenPipe | ConnectionReset | UnexpectedEof, _) => Ok(Answer::HungUp(pid)),
        (TimedOut, Some(waits_for)) => {
            let why = format!("{} has to wait: {waits_for}", process(pid));
            Err(request.refused(TimedOut, why))
        }
        (TimedOut, None) if pid.is_some_and(has_ended) => {
            // A child of its that it has forked has the port, and does not answer.
            let error = io::Error::from(io::ErrorKind::AddrInUse);
            Err(request.opening.refused(Purpose::Found, error))
        }
        (TimedOut, None) => {
            let why = format!("{} does not answer", process(pid));
            Err(request.refused(TimedOut, why))
        }
        _ => Err(request.failed(error, "the process that serves does not lend its members")),
    }
}

/// Whether a process may have ended that has hung up: one that goes on doing that is there.
pub(super) fn may_hang_up(before: &mut Option<(Option<u32>, Instant)>, pid: Option<u32>) -> bool {
    let now = Instant::now();
    let (_, since) = match *before {
        Some(same) if same.0 == pid => same,
        _ => *before.insert((pid, now)),
    };
    now.duration_since(since) < SILENCE
}
