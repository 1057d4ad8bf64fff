//! Which share of what is new each member gets, by what is seen of its load: pure arithmetic.
//!
//! What is seen is one step old when the last connection of a step is dispatched by it, so that the
//! emptiest member must not get everything: it would have all that arrives within a step. Members get
//! what fills all of them to one level by the next step (Dahlin, "Interpreting Stale Load Information",
//! 1999), no member more than twice what it would get among equals, and each a little. What waits in a
//! member's queue is not served at all, and so counts besides: by how much it is, and by how many steps it has
//! waited without one being accepted, each by its square. Where workers publish what they hold, one that takes
//! longer for a connection than is usual gets less, and what it has counts for more. So does what it has been at for
//! longer than is usual; what ends before the next step does not count.

use std::collections::BTreeMap;
use std::time::Duration;

use super::pace::Pace;

/// The share of a member that is as loaded as the least loaded one.
pub(crate) const EVEN: u32 = 1 << 12;

/// So many steps does a member that has joined need until it gets all that it is due.
const WARM: u32 = 64;

/// The share of a member that has joined, before it is seen.
pub(crate) const NEWCOMER: u32 = EVEN / WARM;

/// What is spread evenly whatever the loads are, so that no member starves that only seems loaded.
const FLOOR: f64 = 1.0 / 16.0;

/// No member gets more than so many times what it would get among equals.
const MOST: f64 = 2.0;

/// A member is stuck only after so many steps, so that a control loop that was stopped blames no other.
const STEPS: u32 = 4;

/// What has waited for so many steps counts no more for waiting longer.
const LONG: u32 = 15;

/// A member that says of itself more than so many times what is usual is believed no more than that, where it is
/// about all of them: what one says must not hide what the others have.
const BELIEVED: f64 = 8.0;

/// So many connections from one step to the next are believed in any case.
const BURST: f64 = 64.0;

/// Up to so many times as long as is usual is no reason to give a member less.
const USUAL: f64 = 1.5;

/// No member is taken to be slower than so many times.
const SLOWEST: f64 = 8.0;

/// Differences of queues up to this are those of any moment.
const NOISE: u32 = 1;

/// What is seen of a member at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen<K> {
    pub(crate) key: K,
    /// What waits in its queue, in connections or bytes; none where that is not known now.
    pub(crate) queue: Option<u32>,
    /// In connections.
    pub(crate) load: usize,
    /// How many of these it holds; none where that does not matter now.
    pub(crate) held: Option<u32>,
    /// A number that changes when it accepts, where it publishes that.
    pub(crate) taken: u32,
    /// What it is to get among equals, beside the others.
    pub(crate) weight: u32,
}

/// What is remembered of a member between two steps.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// What waited, and how many units that is.
    waits: u32,
    queue: u32,
    taken: u32,
    pace: Pace,
    /// Since when, and for how many steps, something has waited and nothing was seen to be accepted.
    since: Duration,
    steps: u32,
    is_stuck: bool,
    age: u32,
    /// The step of its share, below [`EVEN`]: half a power of two each.
    below: Option<u32>,
}

/// What comes of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision<K> {
    pub(crate) shares: BTreeMap<K, u32>,
    /// Those that are stuck from this step on, and what waits there.
    pub(crate) stuck: Vec<(K, u32)>,
    /// Those that were stuck, and accept again.
    pub(crate) back: Vec<K>,
}

#[derive(Debug)]
pub(crate) struct Policy<K> {
    known: BTreeMap<K, Known>,
    /// How many connections come from one step to the next, as far as that is seen.
    arrivals: f64,
    /// What was seen at the last step, if nothing waited and all that goes by steps was over.
    rest: Vec<Seen<K>>,
    /// So much of what waits counts as one connection, or a part of it.
    unit: u32,
    pub(crate) patience: Duration,
}

impl<K: Copy + Ord> Policy<K> {
    pub(crate) fn new(patience: Duration, unit: u32) -> Self {
        Self {
            known: BTreeMap::new(),
            arrivals: 0.0,
            rest: Vec::new(),
            unit: unit.max(1),
            patience,
        }
    }

    /// Those that are stuck.
    pub(crate) fn stuck(&self) -> impl Iterator<Item = K> {
        let stuck = self.known.iter().filter(|(_, known)| known.is_stuck);
        stuck.map(|(key, _)| *key)
    }

    /// Whether a step would decide as the last one did, and need not be made: nothing waits, and nothing has
    /// changed.
    pub(crate) fn rests(&self, seen: impl Iterator<Item = Seen<K>>) -> bool {
        !self.rest.is_empty() && seen.eq(self.rest.iter().copied())
    }

    /// What was decided is not in force.
    pub(crate) fn stir(&mut self) {
        self.rest.clear();
    }

    /// `now` is the time since any moment that stays the same.
    pub(crate) fn step(&mut self, now: Duration, seen: &[Seen<K>]) -> Decision<K> {
        let (stuck, back) = self.remember(now, seen);
        // Up to one arrival for two members a step counts as none.
        let few = 2.0 * self.arrivals <= seen.len() as f64;
        let is_idle = |seen: &Seen<K>| seen.queue == Some(0);
        let is_over =
            |known: &Known| !known.is_stuck && known.age > WARM && known.pace.excess() == 0;
        self.rest.clear();
        if few && seen.iter().all(is_idle) && self.known.values().all(is_over) {
            self.rest.extend(seen);
        }
        let mut members = self.members(seen);
        fill(&mut members, self.arrivals);
        let shares = members.iter().map(|member| member.part / member.even);
        let most = shares.fold(0.0, f64::max);
        let mut shares: BTreeMap<K, u32> = seen.iter().map(|seen| (seen.key, 0)).collect();
        for member in members {
            let Some(known) = self.known.get_mut(&member.key) else {
                continue;
            };
            // It is 0 for the one that has most, and so for all where they are alike.
            let below = -2.0 * (member.part / member.even / most).log2();
            let step = match known.below {
                // What is close to what it had is no reason to change.
                Some(step) if (below - f64::from(step)).abs() < 0.75 => step,
                _ => below.round().clamp(0.0, 24.0) as u32,
            };
            known.below = Some(step);
            let share = f64::from(EVEN) * (-0.5 * f64::from(step)).exp2();
            shares.insert(member.key, (share.round() as u32).max(1));
        }
        Decision {
            shares,
            stuck,
            back,
        }
    }

    /// Sees who accepts, and how much comes.
    fn remember(&mut self, now: Duration, seen: &[Seen<K>]) -> (Vec<(K, u32)>, Vec<K>) {
        // Those who are there at the first step have not joined the others.
        let age = if self.known.is_empty() { WARM } else { 0 };
        let (mut stuck, mut back) = (Vec::new(), Vec::new());
        let mut before = std::mem::take(&mut self.known);
        let mut arrived = Vec::with_capacity(seen.len());
        for seen in seen {
            let known = before.remove(&seen.key);
            let is_known = known.is_some();
            let waits = seen.queue.unwrap_or(known.map_or(0, |known| known.waits));
            let queue = waits.div_ceil(self.unit);
            let mut known = known.unwrap_or(Known {
                waits,
                queue,
                taken: seen.taken,
                pace: Pace::default(),
                since: now,
                steps: 0,
                is_stuck: false,
                age,
                below: None,
            });
            let taken = seen.taken.wrapping_sub(known.taken);
            let come = f64::from(taken) + f64::from(queue) - f64::from(known.queue);
            arrived.push((come.max(0.0), f64::from(seen.weight.max(1))));
            match seen.held {
                Some(held) => known.pace.see(held, taken, waits > 0),
                None => known.pace = Pace::default(),
            }
            let accepts = taken > 0 || waits < known.waits || waits == 0;
            if accepts || known.waits == 0 || !is_known {
                (known.since, known.steps) = (now, 0);
            } else {
                known.steps = known.steps.saturating_add(1);
            }
            let is_over = now.saturating_sub(known.since) >= self.patience;
            if known.is_stuck && accepts {
                known.is_stuck = false;
                back.push(seen.key);
            } else if !known.is_stuck && is_over && known.steps >= STEPS {
                known.is_stuck = true;
                stuck.push((seen.key, queue));
            }
            (known.waits, known.queue, known.taken) = (waits, queue, seen.taken);
            known.age = known.age.saturating_add(1);
            self.known.insert(seen.key, known);
        }
        let arrived = believed(&arrived, BURST);
        self.arrivals += (arrived - self.arrivals) / 4.0;
        (stuck, back)
    }

    /// Those among whom what is new is spread: all that have a weight and are not stuck, and where none is
    /// left, all that have a weight.
    fn members(&self, seen: &[Seen<K>]) -> Vec<Member<K>> {
        let able = |is_able: &dyn Fn(&Known, &Seen<K>) -> bool| -> Vec<Member<K>> {
            let known = seen
                .iter()
                .filter_map(|seen| Some((seen, self.known.get(&seen.key)?)));
            let able = known.filter(|(seen, known)| is_able(known, seen));
            able.map(|(seen, known)| Member::of(seen, known)).collect()
        };
        let mut members = able(&|known, seen| seen.weight > 0 && !known.is_stuck);
        if members.is_empty() {
            members = able(&|_, seen| seen.weight > 0);
        }
        if members.is_empty() {
            members = able(&|_, _| true);
        }
        let whole: f64 = members.iter().map(|member| member.even).sum();
        for member in &mut members {
            member.even /= whole;
        }
        members
    }
}

/// A member among whom what is new is spread.
struct Member<K> {
    key: K,
    /// What it is to get among equals, of 1.
    even: f64,
    /// The connections that it has, whether it has accepted them or not.
    load: f64,
    queue: u32,
    /// For how many steps what waits has waited.
    steps: u32,
    pace: Pace,
    /// The most that it may get, beside what it would get among equals.
    most: f64,
    /// What it gets.
    part: f64,
}

impl<K: Copy> Member<K> {
    fn of(seen: &Seen<K>, known: &Known) -> Self {
        // Who publishes is known to be busy or idle.
        let noise = match seen.load == 0 && seen.taken == 0 {
            true => NOISE,
            false => 0,
        };
        Self {
            key: seen.key,
            even: f64::from(seen.weight.max(1)),
            load: seen.load as f64 + f64::from(known.queue.saturating_sub(noise)),
            queue: known.queue,
            steps: known.steps.min(LONG),
            pace: known.pace,
            most: match known.age < WARM {
                true => f64::from(known.age) / f64::from(WARM),
                false => MOST,
            },
            part: 0.0,
        }
    }
}

/// The sum of what each says of itself, beside what it is to get: no more than [`BELIEVED`] times the median, and
/// what is `plain` to say.
fn believed(said: &[(f64, f64)], plain: f64) -> f64 {
    let mut usual: Vec<f64> = said.iter().map(|(said, even)| said / even).collect();
    usual.sort_by(f64::total_cmp);
    let median = usual.get(usual.len().saturating_sub(1) / 2);
    let most = BELIEVED * median.copied().unwrap_or(0.0);
    let believed = said
        .iter()
        .map(|(said, even)| said.min(most * even + plain));
    believed.sum()
}

/// Gives each its part.
fn fill<K>(members: &mut [Member<K>], arrivals: f64) {
    let usual = usual(members);
    for member in members.iter_mut() {
        let excess = f64::from(member.pace.excess());
        let life = member.pace.life().filter(|_| member.pace.has_excess());
        let times = life.zip(usual).map_or(1.0, |(life, usual)| life / usual);
        // Who is at many connections at a time shows by their number how slow it is.
        let times = match times > USUAL {
            true => 1.0 + (times.min(SLOWEST) - 1.0) / excess.max(1.0).powi(2),
            false => 1.0,
        };
        member.most /= times;
        // What it has takes it as long as so many times that would take another, and what ends before the next
        // step is no reason to go round it.
        let still = f64::from(member.pace.still()) / usual.unwrap_or(1.0).max(1.0);
        let longer = (times - 1.0).max(still.min(LONG.into()));
        member.load = (member.load + member.pace.stays() - excess).max(0.0) + longer * excess;
    }
    // How full each is, as if all were alike, above the emptiest.
    let n = members.len() as f64;
    let height = |member: &Member<K>| member.load / (member.even * n);
    let lowest = members.iter().map(height).fold(f64::INFINITY, f64::min);
    let loads = members.iter().map(|member| (member.load, member.even * n));
    let sum = believed(&loads.collect::<Vec<_>>(), 0.0);
    // Twice what is expected, at least one for each: a burst must not all go to one. And a difference of a
    // few in a hundred is worth a bias, and no more.
    let room = (2.0 * arrivals).max(n).max(sum / 8.0);
    let mut order: Vec<usize> = (0..members.len()).collect();
    let above = |member: &Member<K>| (height(member) - lowest).max(0.0);
    order.sort_by(|one, other| above(&members[*one]).total_cmp(&above(&members[*other])));
    // The level to which `room` fills those that are below it.
    let (mut wide, mut held, mut level) = (0.0, 0.0, 0.0);
    for (at, index) in order.iter().enumerate() {
        let member = &members[*index];
        wide += member.even * n;
        held += above(member) * member.even * n;
        level = (room + held) / wide;
        let next = order.get(at + 1).map(|next| above(&members[*next]));
        if next.is_none_or(|next| level <= next) {
            break;
        }
    }
    for member in members.iter_mut() {
        let filled = (level - above(member)).max(0.0) * member.even * n / room;
        member.part = filled * (1.0 - FLOOR) + member.even * FLOOR;
    }
    bound(members);
    let shortest = members.iter().map(|member| member.queue).min().unwrap_or(0);
    for member in members {
        let longer = (member.queue - shortest).saturating_sub(NOISE);
        let slower = 1.0 + f64::from(member.steps);
        member.part /= ((1.0 + f64::from(longer)) * slower).powi(2);
    }
}

/// How many steps a connection takes with most members, of those of which it is known.
fn usual<K>(members: &[Member<K>]) -> Option<f64> {
    let lives = members.iter().filter_map(|member| member.pace.life());
    let mut lives: Vec<f64> = lives.collect();
    lives.sort_by(f64::total_cmp);
    lives.get(lives.len().saturating_sub(1) / 2).copied()
}

/// What is more than a member may get is spread over those that get less.
fn bound<K>(members: &mut [Member<K>]) {
    // Each time one more at least has all that it may.
    for _ in 0..members.len() {
        let (mut rest, mut others) = (0.0, 0.0);
        for member in members.iter_mut() {
            let most = member.even * member.most;
            if member.part >= most {
                rest += member.part - most;
                member.part = most;
            } else {
                others += member.even;
            }
        }
        if rest <= 0.0 || others <= 0.0 {
            break;
        }
        for member in members.iter_mut() {
            if member.part < member.even * member.most {
                member.part += rest * member.even / others;
            }
        }
    }
}

#[cfg(test)]
mod queueing;
#[cfg(test)]
mod tests;
