//! Servers that are computed, with the policy in them: how long clients wait, beside one shared queue.
//!
//! Chance is always the same, and time is in microseconds that do not pass.

use std::collections::VecDeque;

use super::*;

const MS: f64 = 1000.0;

/// A generator of Marsaglia's kind (xorshift), between 0 and 1.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        for (left, by) in [(true, 13), (false, 7), (true, 17)] {
            self.0 ^= if left { self.0 << by } else { self.0 >> by };
        }
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Exponentially distributed.
    fn pause(&mut self, mean: f64) -> f64 {
        -self.next().ln() * mean
    }

    fn choose(&mut self, shares: &[u32]) -> usize {
        let mut at = self.next() * shares.iter().copied().map(f64::from).sum::<f64>();
        let mut shares = shares.iter().copied().map(f64::from);
        let chosen = shares.position(|share| {
            at -= share;
            at < 0.0
        });
        chosen.unwrap_or(0)
    }
}

/// How long a worker takes.
type Work = fn(&mut Chance, usize) -> f64;

fn one_is_six_times_slower(_: &mut Chance, worker: usize) -> f64 {
    if worker == 0 { 6.0 * MS } else { MS }
}

/// Pareto-distributed with exponent 1.2 and mean 2 ms; a fifth of a second is the most.
fn heavy_tailed(chance: &mut Chance, _: usize) -> f64 {
    (2.0 * MS / 6.0 * chance.next().powf(-1.0 / 1.2)).min(200.0 * MS)
}

/// How long each client waits for its answer, how many each worker has got, and in how many of the steps the shares
/// changed.
struct Balanced {
    times: Vec<f64>,
    got: Vec<u32>,
    changes: f64,
}

/// Workers that serve one connection at a time.
struct Servers {
    workers: usize,
    per_second: f64,
    work: Work,
    /// What the first holds besides, all the time.
    beside: u32,
}

#[derive(Default)]
struct Worker {
    waiting: VecDeque<f64>,
    /// When what it serves ends, or has ended.
    until: f64,
    serves: bool,
    taken: u32,
}

impl Servers {
    const CLIENTS: usize = 40_000;

    fn new(workers: usize, each_per_second: f64, work: Work) -> Self {
        Self {
            workers,
            per_second: each_per_second * workers as f64,
            work,
            beside: 0,
        }
    }

    /// How long each client waits for its answer if the next free worker takes the next client.
    fn one_queue(&self) -> Vec<f64> {
        let (mut chance, mut now) = (Chance(7), 0.0);
        let mut free = vec![0.0_f64; self.workers];
        let client = |_| {
            now += chance.pause(1000.0 * MS / self.per_second);
            let idle: Vec<usize> = (0..self.workers).filter(|at| free[*at] <= now).collect();
            let first =
                || (0..self.workers).min_by(|one, other| free[*one].total_cmp(&free[*other]));
            let worker = match idle.len() {
                0 => first().unwrap(),
                n => idle[(chance.next() * n as f64) as usize],
            };
            free[worker] = free[worker].max(now) + (self.work)(&mut chance, worker);
            free[worker] - now
        };
        (0..Self::CLIENTS).map(client).collect()
    }

    /// The same with a queue for each worker.
    fn balanced(&self, step: Duration) -> Balanced {
        let mut chance = Chance(7);
        let mut workers: Vec<Worker> = (0..self.workers).map(|_| Worker::default()).collect();
        let mut policy = Policy::new(Duration::from_millis(100), 1);
        let mut shares = vec![EVEN; self.workers];
        let mut times = Vec::new();
        let (mut steps, mut changes) = (0, 0);
        let (mut next_step, mut next_client) = (0.0, 0.0);
        for _ in 0..Self::CLIENTS {
            next_client += chance.pause(1000.0 * MS / self.per_second);
            while next_step <= next_client {
                self.serve(&mut workers, next_step, &mut chance, &mut times);
                let seen = workers.iter().enumerate().map(|(key, worker)| {
                    let beside = if key == 0 { self.beside } else { 0 };
                    let held = u32::from(worker.serves) + beside;
                    Seen {
                        key,
                        queue: Some(worker.waiting.len() as u32),
                        load: held as usize,
                        held: Some(held),
                        taken: worker.taken,
                        weight: 1,
                    }
                });
                let seen: Vec<_> = seen.collect();
                if !policy.rests(seen.iter().copied()) {
                    let now = Duration::from_micros(next_step as u64);
                    let before = shares;
                    shares = policy.step(now, &seen).shares.into_values().collect();
                    changes += u32::from(before != shares);
                }
                steps += 1;
                next_step += step.as_micros() as f64;
            }
            self.serve(&mut workers, next_client, &mut chance, &mut times);
            workers[chance.choose(&shares)]
                .waiting
                .push_back(next_client);
        }
        Balanced {
            times,
            got: workers.iter().map(|worker| worker.taken).collect(),
            changes: f64::from(changes) / f64::from(steps),
        }
    }

    /// What the workers do until now.
    fn serve(&self, workers: &mut [Worker], now: f64, chance: &mut Chance, times: &mut Vec<f64>) {
        for (number, worker) in workers.iter_mut().enumerate() {
            loop {
                worker.serves &= worker.until > now;
                let Some(came) = worker.waiting.front().filter(|_| !worker.serves).copied() else {
                    break;
                };
                worker.waiting.pop_front();
                worker.until = worker.until.max(came) + (self.work)(chance, number);
                worker.serves = true;
                worker.taken += 1;
                times.push(worker.until - came);
            }
        }
    }

    /// The 99th percentile, beside that of one queue.
    fn ratio(&self, step_ms: u64) -> f64 {
        let p99 = |mut times: Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[times.len() * 99 / 100]
        };
        let step = Duration::from_millis(step_ms);
        p99(self.balanced(step).times) / p99(self.one_queue())
    }
}

/// The most that one of four workers holds, beside the mean, after clients came at even pauses: workers hold all at a
/// time, and each connection for so many milliseconds.
fn fullest(clients: usize, pause_ms: f64, step_ms: u64, lives: impl Fn(usize) -> f64) -> f64 {
    let mut chance = Chance(7);
    let mut ends: [Vec<f64>; 4] = Default::default();
    let mut taken = [0; 4];
    let mut policy = Policy::new(Duration::from_millis(100), 1);
    let mut shares = vec![EVEN; 4];
    let mut next_step = 0;
    for client in 0..clients {
        let now = client as f64 * pause_ms;
        while next_step as f64 <= now {
            let seen = ends.iter_mut().enumerate().map(|(key, ends)| {
                ends.retain(|end| *end > next_step as f64);
                Seen {
                    key,
                    queue: Some(0),
                    load: ends.len(),
                    held: Some(ends.len() as u32),
                    taken: taken[key],
                    weight: 1,
                }
            });
            let seen: Vec<_> = seen.collect();
            let at = Duration::from_millis(next_step);
            shares = policy.step(at, &seen).shares.into_values().collect();
            next_step += step_ms;
        }
        let worker = chance.choose(&shares);
        taken[worker] += 1;
        ends[worker].push(now + lives(client));
    }
    let held = ends.map(|ends| ends.len());
    (held.iter().max().unwrap() * 4) as f64 / held.iter().sum::<usize>() as f64
}

/// Whatever was seen of how long connections take.
#[test]
fn connections_that_stay_are_spread_when_those_before_them_did_not() {
    for (pause, step) in [(2.5, 1), (2.5, 5), (0.5, 1), (0.5, 5)] {
        let lives = |client| if client % 800 < 400 { 0.06 } else { f64::MAX };
        let fullest = fullest(1600, pause, step, lives);
        assert!(fullest < 1.25, "every {pause} ms, {step} ms: {fullest}");
    }
    for step in [1, 5] {
        let fullest = fullest(20_000, 1.0, step, |client| [1.0, 20_000.0][client % 2]);
        assert!(fullest < 1.05, "{step} ms: {fullest}");
    }
}

#[test]
fn beside_a_slow_worker_clients_wait_little_longer_than_with_one_queue() {
    for (workers, each, step, most) in [
        (4, 450.0, 1, 1.2),
        (8, 450.0, 1, 1.2),
        (4, 450.0, 5, 2.2),
        (8, 450.0, 5, 1.5),
        // 85 % of what they can do.
        (4, 675.0, 1, 1.7),
        (8, 675.0, 1, 1.2),
    ] {
        let ratio = Servers::new(workers, each, one_is_six_times_slower).ratio(step);
        assert!(ratio < most, "{workers} workers, {step} ms: {ratio}");
    }
}

#[test]
fn clients_that_take_very_long_hold_up_few_others() {
    for (workers, most) in [(4, 2.5), (8, 2.3)] {
        let ratio = Servers::new(workers, 350.0, heavy_tailed).ratio(1);
        assert!(ratio < most, "{workers} workers: {ratio}");
    }
}

#[test]
fn a_worker_that_has_long_connections_beside_is_not_taken_for_a_slow_one() {
    let plain: Work = |_, _| MS;
    let got = |servers: Servers| {
        let got = servers.balanced(Duration::from_millis(1)).got;
        f64::from(got[0]) / f64::from(got.iter().sum::<u32>())
    };
    let servers = |beside| Servers {
        beside,
        ..Servers::new(4, 450.0, plain)
    };
    let (even, other) = (got(servers(0)), got(servers(1)));
    assert!((even - 0.25).abs() < 0.01, "{even}");
    // One more that it holds is all that there is against it.
    assert!(other > 0.12, "{other}");
    let slow = got(Servers::new(4, 450.0, one_is_six_times_slower));
    assert!((0.02..0.08).contains(&slow), "{slow}");
}

/// What ends before the next step is no reason to tell the kernel anything.
#[test]
fn short_connections_change_little() {
    for workers in [4, 8] {
        for each in [100.0, 750.0, 3000.0] {
            let servers = Servers::new(workers, each, |_, _| 0.06 * MS);
            let changes = servers.balanced(Duration::from_millis(1)).changes;
            assert!(
                changes < 0.08,
                "{workers} workers, {each} a second: {changes}"
            );
        }
    }
}
