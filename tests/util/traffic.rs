//! Clients that come without a pause until they are told to stop, each with its outcome.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::engine::PATIENCE;
use crate::load::{Load, Outcomes};
use crate::util;
use crate::worker::WHO;

/// Where the tests of processes serve, in a namespace of their own.
pub const ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4000);

/// One connection's answer.
pub fn ask(to: SocketAddr) -> io::Result<u8> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    // What waits for nobody is seen soon.
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&[WHO])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

/// Connections of which each is answered by that server.
#[track_caller]
pub fn assert_all_answered(addr: SocketAddr, tag: u8) {
    for number in 0..100 {
        match ask(addr) {
            Ok(answer) => assert_eq!(answer, tag, "connection {number}"),
            Err(error) => panic!("connection {number}: {error}"),
        }
    }
}

/// Clients of a server: of each it is known whether it was answered.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Outcomes>>,
}

impl Traffic {
    /// Connections, some thousands each second.
    pub fn tcp(addr: SocketAddr) -> Self {
        Self::tcp_to(vec![addr])
    }

    /// To these addresses in turn.
    pub fn tcp_to(to: Vec<SocketAddr>) -> Self {
        let load = Load {
            to,
            connections: 100,
            per_second: 5_000,
            at_most: 100,
            // What waits for nobody is seen soon.
            timeout: Duration::from_secs(5),
        };
        Self::start(1, move |stop, answered| {
            let mut all = Outcomes::default();
            while !stop.load(Ordering::Relaxed) {
                let outcomes = load.run();
                outcomes.assert_complete(load.connections);
                answered.fetch_add(outcomes.answered, Ordering::Relaxed);
                add(&mut all, &outcomes);
            }
            all
        })
    }

    /// Datagrams of flows of which each has one.
    pub fn udp(addr: SocketAddr) -> Self {
        Self::start(8, move |stop, answered| {
            let mut all = Outcomes::default();
            while !stop.load(Ordering::Relaxed) {
                let client = UdpSocket::bind((addr.ip(), 0)).unwrap();
                client.connect(addr).unwrap();
                client
                    .set_read_timeout(Some(Duration::from_secs(3)))
                    .unwrap();
                // Without a pause these make 100,000 sockets a second, which starves the kernel's own work.
                thread::sleep(Duration::from_micros(200));
                all.attempts += 1;
                client.send(&[7]).unwrap();
                match client.recv(&mut [0; 8]) {
                    Ok(_) => {
                        all.answered += 1;
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => all.timed_out += 1,
                    Err(error) => {
                        all.other += 1;
                        all.first_other.get_or_insert(error.to_string());
                    }
                }
            }
            all
        })
    }

    pub fn of(kind: &str, addr: SocketAddr) -> Self {
        match kind {
            "tcp" => Self::tcp(addr),
            _ => Self::udp(addr),
        }
    }

    fn start(
        threads: usize,
        run: impl Fn(&AtomicBool, &AtomicUsize) -> Outcomes + Clone + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let threads = (0..threads).map(|_| {
            let (run, stop, answered) = (run.clone(), stop.clone(), answered.clone());
            thread::spawn(move || run(&stop, &answered))
        });
        let threads = threads.collect();
        Self {
            stop,
            answered,
            threads,
        }
    }

    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more have been answered.
    #[track_caller]
    pub fn go_on(&self, n: usize) {
        let before = self.answered();
        util::until(|| (self.answered() >= before + n).then_some(()));
    }

    pub fn stop(mut self) -> Outcomes {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Outcomes::default();
        for thread in std::mem::take(&mut self.threads) {
            add(&mut all, &thread.join().unwrap());
        }
        all
    }

    /// Ends it; nothing was lost.
    #[track_caller]
    pub fn assert_nothing_lost(self, what: &str) {
        self.assert_lost_at_most(0, what);
    }

    #[track_caller]
    pub fn assert_lost_at_most(self, most: usize, what: &str) {
        let outcomes = self.stop();
        assert!(outcomes.lost() <= most, "{what}: {outcomes}");
    }
}

impl Drop for Traffic {
    /// A test that fails must not keep the others busy.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn add(all: &mut Outcomes, more: &Outcomes) {
    all.attempts += more.attempts;
    all.answered += more.answered;
    all.refused += more.refused;
    all.reset += more.reset;
    all.eof += more.eof;
    all.timed_out += more.timed_out;
    all.wrong += more.wrong;
    all.other += more.other;
    all.slowest = all.slowest.max(more.slowest);
    all.took += more.took;
    if all.first_other.is_none() {
        all.first_other.clone_from(&more.first_other);
    }
}
