//! Long connections with random lives: how many each worker has when as many have ended as are open.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use reuseport::{Held, Load, Member, Tokio};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::figure::Figure;
use crate::linux::{MS, Way, accept, draw, is_drawn, open, runtime, wait, ways};
use crate::plot::{Plot, Row};
use crate::util::{in_namespace, until};

const WORKERS: usize = 8;
const CONNECTIONS: usize = 10_000;
const PER_SECOND: u32 = 5_000;

/// The server's end of each, by the client's address, and the worker that has it.
type Lives = Mutex<HashMap<SocketAddr, (TcpStream, Option<Held>, usize)>>;

pub(crate) fn tables(measured: bool) {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let is_short = limit
        .maximum
        .is_some_and(|most| most < CONNECTIONS as u64 + 1_000);
    if is_short || setrlimit(Resource::Nofile, all).is_err() {
        return println!("\nlong connections: not measured, RLIMIT_NOFILE is too low");
    }
    for tokio in [false, true] {
        table(tokio, measured);
    }
}

fn table(tokio: bool, measured: bool) {
    let (rounds, n) = if measured { (3, CONNECTIONS) } else { (1, 100) };
    let ways = ways();
    let ways = ways.iter().filter(|way| **way != Way::Acceptor);
    let ways: Vec<Way> = ways.copied().collect();
    let mut counts = vec![Vec::new(); ways.len()];
    for round in 0..rounds {
        for turn in 0..ways.len() {
            let at = (round + turn) % ways.len();
            // All ports for each run: what has ended keeps a port for a minute, and the kernel
            // forgets it earlier where too many have.
            let run = || spread(ways[at], tokio, n);
            let run = in_namespace("long connections", run).unwrap_or_else(run);
            counts[at].push(run);
        }
    }
    if !measured {
        return println!("long connections: one round, which measures nothing");
    }
    let runtime = if tokio { "tokio" } else { "std" };
    println!("\n{n} long connections: {WORKERS} workers, {runtime}, {rounds} rounds");
    println!("{:<22}{:<26}emptiest / mean", "", "fullest / mean");
    let mut rows = Vec::new();
    for (way, counts) in ways.iter().zip(counts) {
        let of = |f: &dyn Fn(&Vec<f64>) -> f64| Figure::of(counts.iter().map(f));
        let fullest = |shares: &Vec<f64>| shares.iter().copied().fold(0.0, f64::max);
        let emptiest = |shares: &Vec<f64>| shares.iter().copied().fold(f64::MAX, f64::min);
        let figure = of(&fullest);
        println!("{:<22}{:<26}{}", way.name(), figure, of(&emptiest));
        let is_median = |shares: &&Vec<f64>| fullest(shares) == figure.median;
        rows.push(Row {
            name: way.name().to_owned(),
            dots: counts.iter().find(is_median).cloned().unwrap_or_default(),
            said: format!("{:.2}", figure.median),
        });
    }
    let plot = Plot {
        title: &format!("{n} long connections over {WORKERS} workers, {runtime}"),
        unit: "what each worker has, beside the mean; on the right the fullest",
        by_tens: false,
        kinds: &[],
        rows,
    };
    if tokio && is_drawn() {
        draw(&plot, "long");
    }
}

/// What each worker has in the end, beside the mean.
fn spread(way: Way, tokio: bool, connections: usize) -> Vec<f64> {
    let (group, _balancing) = open(way, WORKERS);
    let (addr, roster) = (group.local_addr(), group.roster());
    let lives: Arc<Lives> = Arc::default();
    let ends = Arc::new(AtomicBool::new(false));
    let start = |member: Member<TcpListener>| {
        let load = way
            .balanced()
            .map(|_| roster.load(member.number()).unwrap());
        let worker = Worker {
            number: member.number(),
            load,
            lives: Arc::clone(&lives),
            ends: Arc::clone(&ends),
        };
        thread::spawn(move || match tokio {
            true => worker.tokio(member),
            false => worker.std(member),
        })
    };
    let workers: Vec<JoinHandle<()>> = group.into_iter().map(start).collect();
    // A client closes at once, so that a connection needs one descriptor; the server holds it on.
    let mut open: Vec<SocketAddr> = Vec::new();
    let mut number = 1u64;
    let mut chance = |n: usize| {
        number = number.wrapping_mul(6_364_136_223_846_793_005) + 1;
        (number >> 33) as usize % n
    };
    let begin = Instant::now();
    for (begun, n) in (0..2 * connections).zip(0..) {
        let due = begin + Duration::from_secs(1) * n / PER_SECOND;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A client's end is forgotten after a minute (tcp_fin_timeout), and another may get its port.
        let is_late = begin.elapsed() > Duration::from_secs(50);
        assert!(!is_late, "this machine is too busy for long connections");
        open.push(TcpStream::connect(addr).unwrap().local_addr().unwrap());
        if begun >= connections {
            let ended = open.swap_remove(chance(open.len()));
            drop(until(|| lives.lock().unwrap().remove(&ended)));
        }
    }
    until(|| (lives.lock().unwrap().len() == open.len()).then_some(()));
    let mut counts = vec![0.0; WORKERS];
    for (_, _, number) in lives.lock().unwrap().values() {
        counts[*number] += WORKERS as f64 / connections as f64;
    }
    ends.store(true, Relaxed);
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());
    counts
}

struct Worker {
    number: usize,
    load: Option<Load>,
    lives: Arc<Lives>,
    ends: Arc<AtomicBool>,
}

impl Worker {
    fn hold(&self, stream: TcpStream) {
        let held = self.load.as_ref().map(Load::hold);
        let from = stream.peer_addr().unwrap();
        let life = (stream, held, self.number);
        self.lives.lock().unwrap().insert(from, life);
    }

    fn std(&self, member: Member<TcpListener>) {
        let listener = member.into_std();
        listener.set_nonblocking(true).unwrap();
        while !self.ends.load(Relaxed) {
            match accept(&listener) {
                Some(stream) => self.hold(stream),
                None => wait(&listener),
            }
        }
    }

    fn tokio(&self, member: Member<TcpListener>) {
        runtime().block_on(async {
            let listener = member.attach::<Tokio>().unwrap();
            while !self.ends.load(Relaxed) {
                let accepted = tokio::time::timeout(10 * MS, listener.accept()).await;
                if let Ok(Ok((stream, _))) = accepted {
                    self.hold(stream.into_std().unwrap());
                }
            }
        });
    }
}
