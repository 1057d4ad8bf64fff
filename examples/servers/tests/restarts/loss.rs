//! What became of a request that was not answered.

use std::error::Error;
use std::io;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Loss {
    Refused,
    Reset,
    Eof,
    TimedOut,
    /// An answer that is none, or another failure.
    Wrong,
    /// A GOAWAY crossed it, and the server has not seen it (RFC 9113, section 6.8): the client asks again.
    ///
    /// It was still in the client's own queue, or its stream comes behind the last one that the GOAWAY names.
    /// tonic's client gives it back then: tests/limits.rs. A call that the server has seen and not answered
    /// would be a broken pipe.
    Unsent,
}

impl Loss {
    pub(crate) fn of(failure: &Failure) -> Self {
        let mut error: Option<&(dyn Error + 'static)> = Some(&**failure);
        while let Some(now) = error {
            if let Some(loss) = Self::named(now) {
                return loss;
            }
            // An `io::Error` shows the source of what it holds, and not that itself.
            let held = now.downcast_ref::<io::Error>().and_then(|io| io.get_ref());
            error = match held {
                Some(held) => Some(held),
                None => now.source(),
            };
        }
        Self::Wrong
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Eof => "eof",
            Self::TimedOut => "timed out",
            Self::Wrong => "wrong",
            Self::Unsent => "given back",
        }
    }

    fn named(error: &(dyn Error + 'static)) -> Option<Self> {
        if error.is::<tokio::time::error::Elapsed>() {
            return Some(Self::TimedOut);
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::ConnectionRefused => Some(Self::Refused),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Some(Self::Reset),
                io::ErrorKind::ConnectionAborted => Some(Self::Reset),
                io::ErrorKind::UnexpectedEof => Some(Self::Eof),
                io::ErrorKind::TimedOut => Some(Self::TimedOut),
                _ => None,
            };
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            let cause = error.source().map(ToString::to_string);
            if error.is_canceled() && cause.as_deref() == Some("connection closed") {
                return Some(Self::Unsent);
            }
            if error.is_incomplete_message() {
                return Some(Self::Eof);
            }
        }
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let is_goodbye = error.is_go_away() && error.is_remote();
            let is_unsent = is_goodbye && error.reason() == Some(h2::Reason::NO_ERROR);
            return is_unsent.then_some(Self::Unsent);
        }
        match error.downcast_ref::<quinn::ConnectionError>()? {
            quinn::ConnectionError::TimedOut => Some(Self::TimedOut),
            quinn::ConnectionError::Reset => Some(Self::Reset),
            quinn::ConnectionError::ConnectionClosed(_) => Some(Self::Refused),
            quinn::ConnectionError::ApplicationClosed(_) => Some(Self::Eof),
            _ => None,
        }
    }
}

/// The whole sentence.
pub(crate) fn sentence(failure: &Failure) -> String {
    let mut sentence = failure.to_string();
    let mut source = failure.source();
    while let Some(error) = source {
        sentence += &format!(": {error}");
        source = error.source();
    }
    sentence
}
