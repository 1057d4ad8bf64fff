//! A client, which asks until the server has stopped.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::form::{Kind, Protocol};
use crate::loss::Failure;
use crate::tally::Tally;
use crate::{dns, grpc, http, quic};

#[derive(Clone, Copy)]
pub(crate) struct Client {
    pub(crate) protocol: Protocol,
    pub(crate) kind: Kind,
    pub(crate) addr: SocketAddr,
    /// No answer takes longer, beside the time that slow clients wait.
    pub(crate) soon: Duration,
}

impl Client {
    pub(crate) async fn asks(self, tally: Arc<Tally>) {
        let mut session = Session::new(self.protocol);
        while tally.goes_on(self.kind) {
            let answer = self.ask(&mut session, tally.processes()).await;
            if !tally.note(self.kind, answer) {
                return;
            }
            match self.kind.thinks() {
                Some(pause) => sleep(pause).await,
                // Answers that are there at once would leave the others no turn.
                None => tokio::task::yield_now().await,
            }
        }
        session.ends().await;
    }

    /// The number of the process that answers.
    async fn ask(&self, session: &mut Session, processes: usize) -> Result<u32, Failure> {
        let (kind, addr) = (self.kind, self.addr);
        let asked = async {
            match session {
                Session::Http(kept) => http::ask(kind, addr, kept).await,
                Session::Https(kept) => http::ask_securely(kind, addr, kept).await,
                Session::Grpc(kept) => grpc::ask(kind, addr, kept).await,
                Session::Quic(quic) => quic.ask(kind, addr, self.soon, processes).await,
                Session::Dns(kept) => dns::ask(kind, addr, kept).await,
            }
        };
        let answered = timeout(Kind::SLOW + self.soon, asked).await;
        let answer = match answered {
            Ok(answer) => answer?,
            Err(elapsed) => {
                // What was under way is over.
                *session = Session::new(self.protocol);
                return Err(elapsed.into());
            }
        };
        let pid = answer.strip_prefix("process ").ok_or(answer.clone())?;
        Ok(pid.parse()?)
    }
}

/// What a client keeps for its next request.
enum Session {
    Http(http::Kept<TcpStream>),
    Https(Box<http::Kept<TlsStream<TcpStream>>>),
    Grpc(grpc::Kept),
    Quic(quic::Session),
    Dns(dns::Kept),
}

impl Session {
    fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::Http(None),
            Protocol::Https => Self::Https(Box::default()),
            Protocol::H3 => Self::Quic(quic::Session::of_h3()),
            Protocol::Grpc => Self::Grpc(None),
            Protocol::Quic => Self::Quic(quic::Session::new()),
            Protocol::Dns => Self::Dns(None),
        }
    }

    async fn ends(self) {
        if let Self::Quic(quic) = self {
            quic.ends().await;
        }
    }
}

/// Who answers, with a request that nobody counts.
pub(crate) async fn probe(protocol: Protocol, addr: SocketAddr) -> Option<u32> {
    // An endpoint that is not there yet would let a connection of QUIC wait.
    if matches!(protocol, Protocol::Quic | Protocol::H3) && !is_bound(addr).unwrap_or(false) {
        return None;
    }
    let client = Client {
        protocol,
        kind: Kind::Short,
        addr,
        soon: Duration::from_secs(2),
    };
    let mut session = Session::new(protocol);
    let answer = client.ask(&mut session, 0).await.ok();
    session.ends().await;
    answer
}

/// Whether somebody has the port: on loopback it is known at once that nobody has.
fn is_bound(addr: SocketAddr) -> io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(addr)?;
    socket.send(&[])?;
    Ok(socket.take_error()?.is_none())
}
