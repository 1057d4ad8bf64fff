//! One port number for TCP and UDP.

use std::io;
use std::net::SocketAddr;

use super::addr::Target;
use super::{Call, Opening, Options};
use crate::error::Error;
use crate::steering::Steering;
use crate::sys::Kind;

/// How many ports are tried that are free for TCP.
///
/// Where UDP sockets have nine of ten ports that the kernel chooses from, all tries fail once in 850 times.
const TRIES: usize = 64;

impl Options {
    /// What of these options is for TCP, and what for UDP, where both are opened.
    pub(crate) fn for_both(&self) -> [Self; 2] {
        let [mut tcp, mut udp] = [self.clone(), self.clone()];
        udp.backlog = None;
        if matches!(tcp.steering, Steering::ConnectionIds(_)) {
            tcp.steering = Steering::Hash;
        }
        [tcp, udp]
    }
}

/// Opens something for TCP, which tells its address, and then something for UDP on the same port.
///
/// `udp` is told whether the port must be no other socket's, as it is for port 0. What `keep` leaves of the
/// first keeps its port until the end, so that none is tried twice.
pub(crate) fn both<T, U, K>(
    options: &Options,
    target: Target,
    tcp: impl Fn(Target) -> Result<(T, SocketAddr), Error>,
    udp: impl Fn(Target, bool) -> Result<U, Error>,
    keep: impl Fn(T) -> K,
) -> Result<(T, U), Error> {
    let is_any = target.port() == 0;
    let mut tried = Vec::new();
    loop {
        let error = match tcp(target) {
            Ok((tcp, addr)) => match udp(target.with_port(addr.port()), is_any) {
                Ok(udp) => return Ok((tcp, udp)),
                Err(error) => {
                    tried.push(keep(tcp));
                    error
                }
            },
            Err(error) if tried.is_empty() => return Err(error),
            Err(error) => error,
        };
        let is_taken = error.kind() == io::ErrorKind::AddrInUse;
        if !is_any || !is_taken {
            return Err(error);
        }
        // Every port has been tried, or it would be too many.
        if tried.len() == TRIES || error.addr().is_none_or(|addr| addr.port() == 0) {
            let addr = Opening::new(options, Call::Listen(Kind::Udp), target)?.addr();
            let what = format!("cannot open TCP and UDP on one port of {}", addr.ip());
            let why = format!(
                "other UDP sockets have all of the {} ports that were free for TCP",
                tried.len()
            );
            return Err(Error::refused(io::ErrorKind::AddrInUse, what, why).at(addr));
        }
    }
}
