//! How long the connections of a member take, by how many its worker says that it holds at each step.
//!
//! What it has held all the time, as connections that stay open for hours, says nothing of how long the next one takes.
//! The rest is its *excess*: by Little's law the mean excess is how many end in a step, times how many steps
//! one takes.

/// So many steps does it take until what was seen counts little.
const WINDOW: u32 = 256;

/// Fewer say nothing.
const FEW: f64 = 5.0;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    held: u32,
    /// How many came since the step before.
    came: u32,
    /// The fewest that it held, in the last whole window and in this one.
    least: Option<[u32; 2]>,
    /// How many steps this window has had.
    age: u32,
    /// The sums of the excess and of those that ended, in which each step counts less than the next.
    excess: f64,
    ended: f64,
    /// For how many steps none has ended or come, though there was an excess.
    still: u32,
}

impl Pace {
    /// At a step it holds so many, and so many came since the last one; whether others wait for it.
    pub(super) fn see(&mut self, held: u32, came: u32, has_queue: bool) {
        let ended = (f64::from(came) + f64::from(self.held) - f64::from(held)).max(0.0);
        (self.held, self.came) = (held, came);
        // While others wait, who serves one at a time always holds one.
        if !has_queue {
            self.keep_least();
        }
        self.still = match came == 0 && ended == 0.0 && self.excess() > 0 {
            true => self.still.saturating_add(1),
            false => 0,
        };
        let fades = 1.0 / f64::from(WINDOW);
        self.excess += f64::from(self.excess()) - self.excess * fades;
        self.ended += ended - self.ended * fades;
    }

    fn keep_least(&mut self) {
        let [before, now] = self.least.unwrap_or([self.held; 2]);
        let now = now.min(self.held);
        let excess = self.excess();
        self.age += 1;
        self.least = match self.age {
            WINDOW => Some([now, self.held]),
            _ => Some([before, now]),
        };
        self.age %= WINDOW;
        // What turns out to be held all the time has been no excess.
        if self.excess() < excess {
            self.excess *= f64::from(self.excess()) / f64::from(excess);
        }
    }

    /// How many it holds that it has not held all the time.
    pub(super) fn excess(&self) -> u32 {
        let least = self
            .least
            .map_or(self.held, |[before, now]| before.min(now));
        self.held.saturating_sub(least)
    }

    /// How many steps one connection takes, at most; none where that is not known.
    pub(super) fn life(&self) -> Option<f64> {
        (self.ended >= FEW).then(|| self.excess.max(FEW) / self.ended)
    }

    /// Whether so much of an excess was seen that it can be slow.
    pub(super) fn has_excess(&self) -> bool {
        self.excess >= FEW
    }

    /// How much of its excess will be there at the next step, as far as it can be told.
    pub(super) fn stays(&self) -> f64 {
        // What was there at the step before is no short one.
        let new = self.came.min(self.excess());
        let ends = self.life().map_or(0.0, |life| 1.0 - life.min(1.0));
        let short = f64::from(new) * ends;
        f64::from(self.excess()) - short
    }

    /// For how many steps nothing has come of its excess.
    pub(super) fn still(&self) -> u32 {
        self.still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After many steps, in each of which a connection has come `every` so many steps and took `takes`.
    fn of(base: u32, every: u32, takes: u32) -> Pace {
        let mut pace = Pace::default();
        for step in 0..5 * WINDOW {
            let open = (0..takes).filter(|ago| step >= *ago && (step - ago) % every == 0);
            pace.see(
                base + open.count() as u32,
                u32::from(step % every == 0),
                false,
            );
        }
        pace
    }

    #[test]
    fn it_is_how_long_a_connection_takes_whatever_else_is_held() {
        for base in [0, 1, 1000] {
            for takes in [1, 6, 12] {
                let life = of(base, 20, takes).life().unwrap();
                let expected = f64::from(takes);
                assert!(
                    (life - expected).abs() < 0.15 * expected,
                    "{life} of {takes}"
                );
            }
        }
        assert_eq!(
            (of(0, 10_000, 1).excess(), of(7, 10_000, 1).excess()),
            (0, 0)
        );
    }

    #[test]
    fn it_counts_for_how_long_nothing_has_ended() {
        let mut pace = of(3, 20, 1);
        for step in 0..100 {
            pace.see(4, u32::from(step == 0), false);
            assert_eq!(pace.still(), step);
        }
        pace.see(3, 0, false);
        assert_eq!(pace.still(), 0);
        // What stays is no excess after two windows.
        for _ in 0..2 * WINDOW {
            pace.see(5, 0, false);
        }
        assert_eq!((pace.still(), pace.excess()), (0, 0));
    }

    /// It serves one at a time, of whom others wait, and all that it serves is no less of an excess.
    #[test]
    fn who_is_never_idle_while_others_wait_is_as_slow_as_before() {
        let mut pace = of(0, 12, 6);
        for step in 0..10 * WINDOW {
            pace.see(1, u32::from(step % 6 == 0), true);
        }
        assert!((pace.life().unwrap() - 6.0).abs() < 1.0, "{pace:?}");
    }

    #[test]
    fn one_that_comes_to_stay_counts_for_two_windows_at_most() {
        let mut pace = of(7, 4, 1);
        let slow = |pace: &Pace| pace.life().unwrap() > 2.0;
        for step in 0..2 * WINDOW {
            pace.see(
                8 + u32::from(step % 4 == 0),
                u32::from(step % 4 == 0),
                false,
            );
        }
        assert!(!slow(&pace), "{pace:?}");
    }

    #[test]
    fn absurd_numbers_are_finite() {
        let mut pace = Pace::default();
        for (held, came) in [(u32::MAX, 0), (0, u32::MAX), (u32::MAX, u32::MAX), (0, 0)] {
            for _ in 0..2 * WINDOW {
                pace.see(held, came, false);
                let life = pace.life().unwrap_or(0.0);
                assert!(life.is_finite() && life >= 0.0 && pace.stays() >= 0.0);
            }
        }
    }
}
