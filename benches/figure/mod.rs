//! A figure that was taken many times, as its median and its spread.

#![allow(unreachable_pub, reason = "a module of several crates")]
#![allow(dead_code, reason = "no bench uses all of it")]

use std::fmt;

/// Median and 10th and 90th percentile.
pub struct Figure {
    low: f64,
    pub median: f64,
    high: f64,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { low, median, high } = self;
        f.pad(&format!("{median:.2} [{low:.2}..{high:.2}]"))
    }
}

impl Figure {
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |percent| values[(values.len() - 1) * percent / 100];
        Self {
            low: at(10),
            median: at(50),
            high: at(90),
        }
    }

    pub fn at_most(&self, goal: f64) -> String {
        format!("{goal:.2} {}", met(self.median <= goal))
    }

    pub fn at_least(&self, goal: f64) -> String {
        format!("{goal:.2} {}", met(self.median >= goal))
    }
}

fn met(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}
