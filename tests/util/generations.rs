//! Generations whose members serve on threads of this process, in any runtime.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use reuseport::{Generation, Instruction, Options, Roster, Steering};

use crate::serve::{Stop, Tally, serve_member};
use crate::util::{PATIENCE, Runtime, assert_drained, until};

/// In a namespace of its own each test has it to itself.
pub const PORT: u16 = 4000;

pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
pub const EVERY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The addresses at which clients find a server.
pub fn ways(addr: SocketAddr) -> Vec<SocketAddr> {
    match addr.ip() {
        EVERY => vec![(V4, addr.port()).into(), (V6, addr.port()).into()],
        _ => vec![addr],
    }
}

/// One connection's answer.
pub fn ask(to: SocketAddr, question: u8) -> io::Result<u8> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[question])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

/// Everything goes to the member in that place.
pub fn only(place: usize) -> Steering {
    Steering::Program(vec![Instruction {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: place as u32,
    }])
}

/// One generation, each of whose members serves on a thread of its own.
pub struct Server {
    pub addr: SocketAddr,
    pub generation: Generation,
    pub roster: Roster<TcpListener>,
    pub members: Vec<Serving>,
}

pub struct Serving {
    pub number: usize,
    pub tally: Arc<Tally>,
    stop: Stop,
    thread: JoinHandle<()>,
}

impl Server {
    pub fn open<R: Runtime>(options: &Options, addr: SocketAddr, n: usize) -> Self {
        let (group, generation) = options.generation(addr, n).unwrap();
        assert_eq!((group.len(), group.local_addr()), (n, addr));
        let roster = group.roster();
        let (attached, serves) = mpsc::channel();
        let members = group.into_iter().map(|member| {
            let number = member.number();
            let (tally, stop) = (Arc::new(Tally::default()), Stop::new());
            let (relieved, stopped) = (generation.relieved(), stop.clone());
            let (roster, counts) = (roster.clone(), tally.clone());
            let attached = attached.clone();
            let thread = thread::spawn(move || {
                R::block_on(async {
                    let listener = member.attach::<R>().unwrap();
                    attached.send(()).unwrap();
                    // Who is told needs no error, so that each is counted as one.
                    let left = || !R::NONBLOCKING && roster.has_left(number);
                    let told = smol::future::or(relieved, stopped.stopped());
                    serve_member::<R>(listener, told, left, &counts).await;
                });
            });
            Serving {
                number,
                tally,
                stop,
                thread,
            }
        });
        let members = members.collect();
        assert_eq!(serves.iter().take(n).count(), n);
        Self {
            addr,
            generation,
            roster,
            members,
        }
    }

    /// One that serves from here on.
    pub fn serving<R: Runtime>(options: &Options, addr: SocketAddr, n: usize) -> Self {
        let this = Self::open::<R>(options, addr, n);
        this.take_over();
        this
    }

    /// Nothing of the one before is lost.
    #[track_caller]
    pub fn take_over(&self) {
        assert_drained(self.generation.take_over_blocking(PATIENCE));
    }

    fn sum(&self, count: impl Fn(&Tally) -> usize) -> usize {
        self.members.iter().map(|member| count(&member.tally)).sum()
    }

    pub fn accepted(&self) -> usize {
        self.sum(Tally::accepted)
    }

    /// A member that has left closes its listener.
    pub fn stop(&mut self, at: usize) {
        let member = self.members.remove(at);
        member.stop.stop();
        member.thread.join().unwrap();
    }

    /// The next generation has taken over; how many connections this one had.
    #[track_caller]
    pub fn relieved(self) -> usize {
        self.generation.relieved_blocking();
        let mut accepted = 0;
        for member in self.members {
            member.thread.join().unwrap();
            let tally = member.tally;
            accepted += tally.accepted();
            let failed = [
                tally.silent(),
                tally.broken(),
                tally.unfinished(),
                tally.accept_errors(),
            ];
            assert_eq!(failed, [0; 4], "{tally:?}");
        }
        accepted
    }

    /// Ends it by a generation that nobody serves.
    #[track_caller]
    pub fn end(self) -> usize {
        let port = self.addr.port();
        let (group, generation) = Options::new().generation(self.addr, 1).unwrap();
        assert_drained(generation.take_over_blocking(PATIENCE));
        let accepted = self.relieved();
        drop((group, generation));
        // The one that was relieved has copies of the other's listeners for some milliseconds.
        until(|| reuseport::occupants(port).map_or(Some(()), |all| all.is_empty().then_some(())));
        accepted
    }

    /// Waits until no member of another generation is in the group any more.
    #[track_caller]
    pub fn alone(&self) {
        until(|| {
            // Nothing is closed, added or taken away while another stands behind.
            let refusal = self.roster.close(usize::MAX).unwrap_err().to_string();
            let is_last = refusal.contains("it has no member");
            let places = self.roster.places();
            let is_alone = !places.is_empty() && places.iter().all(Option::is_some);
            (is_last && is_alone).then_some(())
        });
    }

    /// What the table says is where the kernel has the members.
    #[track_caller]
    pub fn assert_places(&self) {
        let places: Option<Vec<_>> = self.roster.places().into_iter().collect();
        let places = places.unwrap();
        let mut sorted = places.clone();
        sorted.sort_unstable();
        let mut numbers: Vec<_> = self.members.iter().map(|member| member.number).collect();
        numbers.sort_unstable();
        assert_eq!(sorted, numbers);
        for (place, number) in places.iter().enumerate() {
            self.roster.steer(&only(place)).unwrap();
            let counts = || -> Vec<_> {
                let members = self.members.iter();
                members
                    .map(|member| (member.number, member.tally.accepted()))
                    .collect()
            };
            let before = counts();
            ask(ways(self.addr)[0], 7).unwrap();
            for ((member, before), (_, after)) in before.into_iter().zip(counts()) {
                let expected = usize::from(member == *number);
                assert_eq!(
                    after - before,
                    expected,
                    "{member} in {places:?} at {place}"
                );
            }
        }
        self.roster.steer(&Steering::Hash).unwrap();
    }
}
