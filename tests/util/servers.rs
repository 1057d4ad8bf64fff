//! Listeners that serve a load while members, or whole generations, come and go.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use reuseport::{Generation, Group, Guarantee, Member, Options, Relieved, Roster, Std};
use smol::future;
use socket2::SockRef;

use crate::serve::{Stop, Tally, serve_member};
use crate::util::{Runtime, addr_of, assert_drained};

const MEMBERS: usize = 4;
/// By then the kernel has given the slowest handshake up (net.ipv4.tcp_synack_retries).
const TIMEOUT: Duration = Duration::from_secs(64);

/// Listeners that each serve on a thread of their own.
pub struct Servers<R: Runtime> {
    pub addr: SocketAddr,
    options: Options,
    roster: Roster<TcpListener>,
    generation: Option<Generation>,
    members: VecDeque<Server>,
    /// Those that have left and may still have connections.
    left: Vec<Server>,
    tally: Arc<Tally>,
    runtime: std::marker::PhantomData<fn() -> R>,
}

struct Server {
    number: usize,
    stop: Stop,
    /// Of a listener whose accept blocks, and nothing else ends.
    blocked: Option<TcpListener>,
    thread: JoinHandle<()>,
}

impl<R: Runtime> Servers<R> {
    pub fn group(addr: IpAddr) -> Self {
        let options = Options::new();
        let group = options.group(SocketAddr::new(addr, 0), MEMBERS).unwrap();
        Self::new(options, group, None)
    }

    /// The first of several.
    pub fn generation(addr: IpAddr, options: Options) -> Self {
        let free = TcpListener::bind((addr, 0)).unwrap();
        let addr = addr_of(&free);
        drop(free);
        let (group, generation) = options.generation(addr, MEMBERS).unwrap();
        let servers = Self::new(options, group, Some(generation));
        servers.take_over();
        servers
    }

    fn new(options: Options, group: Group<TcpListener>, generation: Option<Generation>) -> Self {
        let tally = Arc::new(Tally::default());
        let roster = group.roster();
        Self {
            addr: group.local_addr(),
            options,
            members: Self::start(group, &roster, generation.as_ref(), &tally),
            roster,
            generation,
            left: Vec::new(),
            tally,
            runtime: std::marker::PhantomData,
        }
    }

    fn start(
        group: Group<TcpListener>,
        roster: &Roster<TcpListener>,
        generation: Option<&Generation>,
        tally: &Arc<Tally>,
    ) -> VecDeque<Server> {
        group
            .into_iter()
            .map(|member| {
                let relieved = generation.map(Generation::relieved);
                Server::start::<R>(member, roster, relieved, tally)
            })
            .collect()
    }

    fn take_over(&self) {
        let generation = self.generation.as_ref().unwrap();
        assert_drained(generation.take_over_blocking(TIMEOUT));
    }

    /// Closes one member after the other, each when another has joined; how many there were.
    pub fn replace_until(&mut self, every: Duration, finished: impl Fn() -> bool) -> usize {
        let mut closed = 0;
        while !finished() {
            let listener = Options::new().listen::<Std>(self.addr).unwrap();
            let member = Member::adopt(listener).unwrap();
            self.members
                .push_back(Server::start::<R>(member, &self.roster, None, &self.tally));
            let old = self.members.pop_front().unwrap();
            old.close();
            self.left.push(old);
            closed += 1;
            self.join_ended();
            thread::sleep(every);
        }
        closed
    }

    /// One member after the other leaves, each when another has joined; how many there were.
    pub fn leave_until(&mut self, finished: &dyn Fn() -> bool) -> usize {
        let mut left = 0;
        let mut took = Vec::new();
        while !finished() {
            // Each place once: the newest, which the kernel finds first, as well as the oldest.
            took.push(self.leave_one(left % (self.members.len() + 1)));
            left += 1;
        }
        took.sort();
        println!(
            "left in {:?}, {:?} the median",
            took[took.len() - 1],
            took[took.len() / 2]
        );
        left
    }

    /// Another member joins, and one leaves; how long that took.
    pub fn leave_one(&mut self, at: usize) -> Duration {
        let member = self.roster.join().unwrap();
        self.members
            .push_back(Server::start::<R>(member, &self.roster, None, &self.tally));
        let old = self.members.remove(at).unwrap();
        let begin = Instant::now();
        let leaving = self.roster.leave(old.number).unwrap();
        assert_eq!(leaving.guarantee(), Guarantee::Lossless);
        assert_drained(leaving.timeout(TIMEOUT).wait());
        let took = begin.elapsed();
        old.stop.stop();
        self.left.push(old);
        self.join_ended();
        took
    }

    /// One generation after the other, of all sizes; how many there were.
    pub fn relieve_until(&mut self, finished: &dyn Fn() -> bool) -> usize {
        let mut generations = 0;
        let mut took = Vec::new();
        while !finished() {
            let n = 1 + (generations * 5) % 8;
            let (group, generation) = self.options.generation(self.addr, n).unwrap();
            let roster = group.roster();
            let members = Self::start(group, &roster, Some(&generation), &self.tally);
            let predecessor = self.generation.replace(generation).unwrap();
            let begin = Instant::now();
            self.take_over();
            took.push(begin.elapsed());
            predecessor.relieved_blocking();
            self.roster = roster;
            let old = std::mem::replace(&mut self.members, members);
            self.end(old);
            generations += 1;
        }
        took.sort();
        println!(
            "relieved in {:?}, {:?} the median",
            took[took.len() - 1],
            took[took.len() / 2]
        );
        generations
    }

    /// One generation after the other has a part of what is new, and another; every second one takes over, and the
    /// others give it back; how many there were.
    pub fn try_until(&mut self, finished: &dyn Fn() -> bool) -> usize {
        let parts = [0.5, 0.01, 1.0, 0.1, 0.0, 0.9];
        let mut tries = 0;
        while !finished() {
            let n = 1 + (tries * 5) % 8;
            let (group, generation) = self.options.generation(self.addr, n).unwrap();
            let roster = group.roster();
            let members = Self::start(group, &roster, Some(&generation), &self.tally);
            for at in 0..3 {
                let part = parts[(tries + at) % parts.len()];
                assert_eq!(generation.take_share_blocking(part).unwrap(), part);
                thread::sleep(Duration::from_millis(5));
            }
            let old = if tries % 2 == 0 {
                let predecessor = self.generation.replace(generation).unwrap();
                self.take_over();
                predecessor.relieved_blocking();
                self.roster = roster;
                std::mem::replace(&mut self.members, members)
            } else {
                generation.stop();
                generation.relieved_blocking();
                assert_drained(generation.outcome());
                members
            };
            self.end(old);
            tries += 1;
        }
        tries
    }

    /// They get nothing new, and finish what they have.
    fn end(&mut self, members: VecDeque<Server>) {
        for member in members {
            member.stop.stop();
            self.left.push(member);
        }
        self.join_ended();
    }

    /// Until then a thread that has ended has its stack.
    fn join_ended(&mut self) {
        let (ended, left) = std::mem::take(&mut self.left)
            .into_iter()
            .partition(|old: &Server| old.thread.is_finished());
        self.left = left;
        ended.into_iter().for_each(Server::join);
    }

    pub fn stop(self) -> Arc<Tally> {
        for member in &self.members {
            member.close();
        }
        self.members
            .into_iter()
            .chain(self.left)
            .for_each(Server::join);
        self.tally
    }
}

impl Server {
    fn start<R: Runtime>(
        member: Member<TcpListener>,
        roster: &Roster<TcpListener>,
        relieved: Option<Relieved>,
        tally: &Arc<Tally>,
    ) -> Self {
        let number = member.number();
        let listener = member.into_std();
        let blocked = (!R::NONBLOCKING).then(|| listener.try_clone().unwrap());
        let stop = Stop::new();
        let (told, tally, roster) = (stop.clone(), tally.clone(), roster.clone());
        let (attached, serves) = mpsc::channel();
        let thread = thread::spawn(move || {
            R::block_on(async {
                let listener = R::adopt(listener).unwrap();
                attached.send(()).unwrap();
                let left = || told.is_stopped() || roster.has_left(number);
                let relieved = async {
                    match relieved {
                        Some(relieved) => relieved.await,
                        None => future::pending().await,
                    }
                };
                let told = future::or(told.stopped(), relieved);
                serve_member::<R>(listener, told, left, &tally).await;
            });
        });
        // Not closed before: after shutdown(2) it is no listener, which adopting would refuse.
        serves.recv().unwrap();
        Self {
            number,
            stop,
            blocked,
            thread,
        }
    }

    /// The listener is closed with all that waits in its queue.
    fn close(&self) {
        self.stop.stop();
        if let Some(listener) = &self.blocked {
            // It does with a listener what close(2) does (kernel: inet_shutdown).
            let _ = SockRef::from(listener).shutdown(std::net::Shutdown::Both);
        }
    }

    fn join(self) {
        self.thread.join().unwrap();
    }
}
