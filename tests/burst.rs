//! A burst of connections to a listener that accepts none: the default queue takes all at once.

#![cfg(target_os = "linux")]

mod util;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use reuseport::{Options, Std};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

const CONNECTIONS: usize = 1_500;

#[test]
fn default_queue_takes_a_burst() {
    if !can_open(CONNECTIONS + 100) {
        return;
    }
    // The kernel counts for each namespace.
    util::in_namespace("a burst of connections", || {
        let somaxconn = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        if somaxconn.trim().parse::<usize>().unwrap() < CONNECTIONS {
            return util::skip("a burst of connections (net.core.somaxconn is too small)");
        }
        let listener = Options::new().listen::<Std>("127.0.0.1:0").unwrap();
        let before = Troubles::now();
        let clients = connect(&listener);
        await_connected(&clients);
        assert_eq!(Troubles::now().since(&before), Troubles::default());
    });

    // The control: a queue as long as std's and tokio's does not, and the same counters say so.
    util::in_namespace("a burst of connections to a short queue", || {
        let options = Options::new().backlog(128);
        let listener = options.listen::<Std>("127.0.0.1:0").unwrap();
        let before = Troubles::now();
        let _clients = connect(&listener);
        let deadline = deadline();
        while Troubles::now().since(&before) == Troubles::default() {
            assert!(Instant::now() < deadline, "a queue of 128 took the burst");
            std::thread::yield_now();
        }
    });
}

/// Starts all connections, and waits for none.
fn connect(listener: &TcpListener) -> Vec<Socket> {
    let addr = listener.local_addr().unwrap().into();
    let clients = (0..CONNECTIONS).map(|_| {
        let client = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
        match client.connect(&addr) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => panic!("{error}"),
            _ => client,
        }
    });
    clients.collect()
}

/// Waits until every one can be written to, without an error.
fn await_connected(clients: &[Socket]) {
    let deadline = deadline();
    let mut waiting: Vec<&Socket> = clients.iter().collect();
    while !waiting.is_empty() {
        let mut entries: Vec<PollFd<'_>> = waiting
            .iter()
            .map(|client| PollFd::new(client, PollFlags::OUT))
            .collect();
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(
            !left.is_zero(),
            "{} of {CONNECTIONS} wait yet",
            waiting.len()
        );
        poll(&mut entries, Some(&Timespec::try_from(left).unwrap())).unwrap();
        let ready: Vec<bool> = entries.iter().map(|e| !e.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        waiting.retain(|_| !ready.next().unwrap());
    }
    for client in clients {
        assert!(client.take_error().unwrap().is_none());
        let peer: Option<SocketAddr> = client.peer_addr().unwrap().as_socket();
        assert!(peer.is_some());
    }
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// Raises the number of descriptors that this process can have, as far as it may.
fn can_open(n: usize) -> bool {
    let mut limit = getrlimit(Resource::Nofile);
    let n = n as u64;
    if limit.maximum.is_some_and(|most| most < n) {
        util::skip("a burst of connections (RLIMIT_NOFILE is too small)");
        return false;
    }
    if limit.current.is_some_and(|now| now < n) {
        limit.current = Some(n);
        setrlimit(Resource::Nofile, limit).unwrap();
    }
    true
}

/// What the kernel counts in this thread's namespace when a connection is not taken at once.
#[derive(Debug, Default, PartialEq)]
struct Troubles {
    syn_retransmits: u64,
    timeouts: u64,
    overflows: u64,
    drops: u64,
}

impl Troubles {
    fn now() -> Self {
        let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let value = |name| {
            let at = names.split_whitespace().position(|known| known == name);
            let value = values.split_whitespace().nth(at.expect(name)).unwrap();
            value.parse().unwrap()
        };
        Self {
            syn_retransmits: value("TCPSynRetrans"),
            timeouts: value("TCPTimeouts"),
            overflows: value("ListenOverflows"),
            drops: value("ListenDrops"),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            syn_retransmits: self.syn_retransmits - before.syn_retransmits,
            timeouts: self.timeouts - before.timeouts,
            overflows: self.overflows - before.overflows,
            drops: self.drops - before.drops,
        }
    }
}
