//! Who asks, how often, and how.

use std::fmt;
use std::time::Duration;

/// How much is done.
pub(crate) struct Form {
    pub(crate) restarts: usize,
    /// How many answers clients of each kind get from each process at least.
    pub(crate) answers: usize,
    is_long: bool,
}

impl Form {
    pub(crate) const SHORT: Self = Self {
        restarts: 2,
        answers: 20,
        is_long: false,
    };

    /// As short, and replaced more often.
    pub(crate) const FIVE: Self = Self {
        restarts: 5,
        ..Self::SHORT
    };

    pub(crate) const LONG: Self = Self {
        restarts: 10,
        // Of eleven processes together more than 5,000.
        answers: 500,
        is_long: true,
    };

    pub(crate) fn clients(&self, protocol: Protocol, kind: Kind) -> usize {
        let (short, long) = match (protocol, kind) {
            (_, Kind::Short) => (2, 4),
            (_, Kind::Datagram) => (4, 8),
            (_, Kind::Slow) => (16, 100),
            // A connection of QUIC costs more than one of TCP.
            (Protocol::Quic | Protocol::H3, Kind::Busy | Kind::Calm) => (5, 20),
            (_, Kind::Busy | Kind::Calm) => (10, 50),
        };
        if self.is_long { long } else { short }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Https,
    H3,
    Grpc,
    Quic,
    Dns,
}

impl Protocol {
    pub(crate) fn kinds(self) -> &'static [Kind] {
        use Kind::{Busy, Calm, Datagram, Short, Slow};
        match self {
            Self::Http | Self::Https | Self::H3 | Self::Grpc | Self::Quic => {
                &[Short, Slow, Busy, Calm]
            }
            Self::Dns => &[Datagram, Short, Slow, Calm],
        }
    }

    /// Why some requests of a kind are lost whatever stands below the framework.
    pub(crate) fn limit(self, kind: Kind) -> Option<&'static str> {
        match (self, kind) {
            (Self::Dns, Kind::Calm) => Some("hickory cuts connections: tests/limits.rs"),
            _ => None,
        }
    }

    /// Whether the last server of all refuses these clients in a way that they understand.
    pub(crate) fn refuses(self, kind: Kind) -> bool {
        !matches!(self, Self::Quic | Self::H3) && kind != Kind::Datagram
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A connection for each request.
    Short,
    /// A connection for each request, which comes half a second later.
    Slow,
    /// One connection until the server says goodbye, and the next request at once.
    Busy,
    /// As busy, and 20 ms between answer and request.
    Calm,
    /// A datagram for each request, of a new socket.
    Datagram,
}

impl Kind {
    /// How long a slow client waits before it asks.
    pub(crate) const SLOW: Duration = Duration::from_millis(500);

    /// How long a client thinks before its next request.
    pub(crate) fn thinks(self) -> Option<Duration> {
        match self {
            Self::Busy => None,
            Self::Slow => Some(Duration::from_millis(1)),
            Self::Short | Self::Datagram => Some(Duration::from_millis(5)),
            Self::Calm => Some(Duration::from_millis(20)),
        }
    }

    /// Whether the connection is kept for the next request.
    pub(crate) fn is_kept(self) -> bool {
        matches!(self, Self::Busy | Self::Calm)
    }

    pub(crate) fn name(self, protocol: Protocol) -> &'static str {
        match (protocol, self) {
            (Protocol::Grpc, Self::Short) => "new channels",
            (Protocol::Grpc, Self::Slow) => "new channels, slow",
            (Protocol::Grpc, Self::Busy) => "kept channels, 0 ms",
            (Protocol::Grpc, Self::Calm) => "kept channels, 20 ms",
            (Protocol::Quic | Protocol::H3, Self::Busy) => "go on, 0 ms",
            (Protocol::Quic | Protocol::H3, Self::Calm) => "go on, 20 ms",
            (Protocol::Dns, Self::Short) => "TCP",
            (Protocol::Dns, Self::Slow) => "TCP, slow",
            (Protocol::Dns, Self::Calm) => "kept TCP, 20 ms",
            (_, Self::Short) => "short",
            (_, Self::Slow) => "slow",
            (_, Self::Busy) => "kept, 0 ms",
            (_, Self::Calm) => "kept, 20 ms",
            (_, Self::Datagram) => "UDP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP/1.1",
            Self::Https => "HTTPS",
            Self::H3 => "HTTP/3",
            Self::Grpc => "gRPC",
            Self::Quic => "QUIC",
            Self::Dns => "DNS",
        })
    }
}
