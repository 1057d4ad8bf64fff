//! The shares are computed, and not tried out: no clock, no socket.

use super::*;

const STEP: Duration = Duration::from_millis(5);

fn seen(key: usize, queue: u32, load: usize) -> Seen<usize> {
    Seen {
        key,
        queue: Some(queue),
        load,
        held: Some(load.min(u32::MAX as usize) as u32),
        taken: 0,
        weight: 1,
    }
}

fn policy() -> Policy<usize> {
    Policy::new(Duration::from_millis(100), 1)
}

/// What one step makes of members with these queues and loads.
fn once(members: &[(u32, usize)]) -> Vec<u32> {
    let members: Vec<_> = members
        .iter()
        .enumerate()
        .map(|(key, &(queue, load))| seen(key, queue, load))
        .collect();
    shares(policy().step(Duration::ZERO, &members))
}

fn shares(decision: Decision<usize>) -> Vec<u32> {
    decision.shares.into_values().collect()
}

#[test]
fn who_is_alike_gets_the_same() {
    for load in [0, 1, 7, usize::MAX / 2, usize::MAX] {
        for queue in [0, 1, 4096, u32::MAX] {
            for n in [1, 2, 3, 1024] {
                assert_eq!(once(&vec![(queue, load); n]), vec![EVEN; n]);
            }
        }
    }
}

#[test]
fn what_is_usual_at_any_moment_changes_nothing() {
    assert_eq!(once(&[(0, 0), (1, 0)]), [EVEN; 2]);
    assert_eq!(
        once(&[(0, 1250), (0, 1245), (1, 1252), (0, 1249)]),
        [EVEN; 4]
    );
}

#[test]
fn who_has_more_gets_less_and_who_has_least_not_all() {
    let shares = once(&[(0, 0), (0, 1), (0, 2), (0, 30)]);
    assert!(
        shares.windows(2).all(|pair| pair[0] >= pair[1]),
        "{shares:?}"
    );
    assert!(shares[0] > shares[3]);
    let sum: u32 = shares.iter().sum();
    // Twice of what it would get among equals, and the rounding to half a power of two.
    assert!(f64::from(shares[0]) < 0.6 * f64::from(sum), "{shares:?}");
    assert!(shares[3] > 0);
}

#[test]
fn a_queue_counts_by_its_square() {
    let of = |queue| once(&[(0, 0), (queue, 0)])[1];
    assert!(of(2) < EVEN && of(10) < EVEN / 32 && of(100) < EVEN / 1024);
    assert_eq!(of(u32::MAX), 1);
}

#[test]
fn what_waits_counts_more_with_each_step() {
    let mut policy = policy();
    let mut last = EVEN + 1;
    for number in 0..10 {
        let decision = policy.step(STEP * number, &[seen(0, 0, 0), seen(1, 1, 0)]);
        assert!(decision.shares[&1] <= last && decision.shares[&0] == EVEN);
        last = decision.shares[&1];
    }
    assert!(last < EVEN / 64, "{last}");
    // It has accepted that one, and another waits.
    let taken = Seen {
        taken: 1,
        ..seen(1, 1, 0)
    };
    assert!(policy.step(STEP * 10, &[seen(0, 0, 0), taken]).shares[&1] > EVEN / 8);
}

#[test]
fn absurd_loads_leave_a_share_for_each() {
    let absurd = [0, 1, 2, 1000, usize::MAX / 2, usize::MAX - 1, usize::MAX];
    let mut number = 1u64;
    let mut any = |from: &[usize]| {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        from[(number >> 33) as usize % from.len()]
    };
    for round in 0..2000 {
        let n = if round % 100 == 0 {
            1024
        } else {
            1 + round % 17
        };
        let mut policy = policy();
        let mut queues = vec![0; n];
        for step in 0..4 {
            let members: Vec<_> = (0..n)
                .map(|key| {
                    queues[key] = any(&absurd) as u32;
                    Seen {
                        taken: any(&absurd) as u32,
                        weight: any(&[0, 1, 1, 5, u32::MAX as usize]) as u32,
                        queue: (any(&absurd) % 3 > 0).then_some(queues[key]),
                        ..seen(key, 0, any(&absurd))
                    }
                })
                .collect();
            let decision = policy.step(STEP * step, &members);
            assert_eq!(decision.shares.len(), n);
            assert!(decision.shares.values().all(|share| *share <= EVEN));
            // The fullest share is always there, so that the sum is never 0.
            assert_eq!(decision.shares.values().max(), Some(&EVEN));
            let some_weight = members.iter().any(|seen| seen.weight > 0);
            for seen in &members {
                let gets = decision.shares[&seen.key] > 0;
                assert_eq!(gets, seen.weight > 0 || !some_weight, "{members:?}");
            }
        }
    }
}

#[test]
fn who_does_not_accept_is_stuck_and_gets_nothing_until_it_accepts() {
    let mut policy = policy();
    let mut now = Duration::ZERO;
    let mut step = |queue| {
        now += STEP;
        policy.step(now, &[seen(0, 0, 0), seen(1, queue, 0)])
    };
    // At the 1st step it is seen for the first time; 100 ms later it is stuck.
    for number in 0..20 {
        let decision = step(3 + number / 4);
        assert!(
            decision.stuck.is_empty() && decision.shares[&1] > 0,
            "step {number}"
        );
    }
    let decision = step(8);
    assert_eq!((decision.stuck, decision.shares[&1]), (vec![(1, 8)], 0));
    // It is told once.
    let decision = step(9);
    assert_eq!((decision.stuck, decision.shares[&1]), (vec![], 0));
    let decision = step(8);
    assert_eq!((decision.back, decision.shares[&1] > 0), (vec![1], true));
    let decision = step(0);
    assert_eq!((decision.back, decision.shares[&1]), (vec![], EVEN));
}

/// Each connection takes so many steps with a member, and each has one at a time, with as many steps between them.
fn after_a_while(takes: &[u32]) -> (Policy<usize>, Vec<u32>) {
    let (mut policy, mut last) = (policy(), Vec::new());
    let mut taken = vec![0; takes.len()];
    for step in 0..=1200 {
        let busy = |takes: u32| step % (2 * takes) < takes && step < 1200;
        let begins = |takes: u32| step % (2 * takes) == 0;
        let seen = takes.iter().enumerate().map(|(key, takes)| {
            taken[key] += u32::from(busy(*takes) && begins(*takes));
            Seen {
                taken: taken[key],
                ..seen(key, 0, busy(*takes).into())
            }
        });
        last = shares(policy.step(STEP * step, &seen.collect::<Vec<_>>()));
    }
    (policy, last)
}

#[test]
fn who_takes_longer_for_a_connection_gets_less_also_when_idle() {
    let (_, shares) = after_a_while(&[6, 1, 1, 1]);
    assert_eq!(shares[1..], [EVEN; 3]);
    assert!((EVEN / 12..=EVEN / 3).contains(&shares[0]), "{shares:?}");
    // Also of those that are far slower one gets something.
    let (_, shares) = after_a_while(&[20, 1, 1, 1]);
    assert!((EVEN / 12..=EVEN / 3).contains(&shares[0]), "{shares:?}");
    // A little longer is by chance.
    assert_eq!(after_a_while(&[4, 3, 3]).1, [EVEN; 3]);
}

#[test]
fn who_is_at_a_connection_for_long_gets_less_with_each_step() {
    let (mut policy, _) = after_a_while(&[2, 2]);
    let mut last = EVEN + 1;
    for step in 1..12 {
        let busy = |key| Seen {
            taken: 300,
            ..seen(key, 0, 1)
        };
        // The other begins another at each step.
        let other = Seen {
            taken: 300 + step,
            ..busy(1)
        };
        let shares = shares(policy.step(STEP * (1200 + step), &[busy(0), other]));
        assert!(shares[0] <= last && shares[1] == EVEN, "{shares:?}");
        last = shares[0];
    }
    assert!(last < EVEN / 16, "{last}");
}

/// Less than one unit was taken.
#[test]
fn who_takes_a_part_of_a_unit_accepts() {
    for (by, is_stuck) in [(1, false), (0, true)] {
        let mut policy = Policy::new(Duration::from_millis(100), 4096);
        let mut stuck = 0;
        for number in 0..100 {
            let bytes = 40_000 - number * by;
            let decision = policy.step(STEP * number, &[seen(0, 0, 0), seen(1, bytes, 0)]);
            stuck += decision.stuck.len();
        }
        assert_eq!(stuck > 0, is_stuck);
    }
}

#[test]
fn a_unit_counts_as_one_connection() {
    let shares = |unit, queue| {
        let mut policy = Policy::new(Duration::from_millis(100), unit);
        shares(policy.step(Duration::ZERO, &[seen(0, 0, 0), seen(1, queue, 0)]))
    };
    assert_eq!(shares(1, 5), shares(4096, 5 * 4096));
    assert_eq!(shares(1, 5), shares(4096, 4 * 4096 + 1));
}

#[test]
fn who_says_that_it_accepts_is_not_stuck() {
    let mut policy = policy();
    for number in 0..200 {
        let taken = Seen {
            taken: number,
            ..seen(1, 10 + number, 0)
        };
        let decision = policy.step(STEP * number, &[seen(0, 0, 0), taken]);
        assert!(decision.stuck.is_empty() && decision.shares[&1] > 0);
    }
}

#[test]
fn one_long_pause_makes_none_stuck() {
    let mut policy = policy();
    let hour = Duration::from_secs(3600);
    for number in 0..3 {
        let decision = policy.step(hour * number, &[seen(0, 0, 0), seen(1, 5, 0)]);
        assert!(decision.stuck.is_empty());
    }
}

#[test]
fn all_that_are_stuck_are_all_in() {
    let mut policy = policy();
    for number in 0..100 {
        let members = [seen(0, 9, 0), seen(1, 9, 0), seen(2, 9, 0)];
        assert_eq!(shares(policy.step(STEP * number, &members)), [EVEN; 3]);
    }
    assert_eq!(policy.stuck().count(), 3);
    // The first that accepts gets everything.
    let members = [seen(0, 9, 0), seen(1, 8, 0), seen(2, 9, 0)];
    assert_eq!(shares(policy.step(STEP * 100, &members)), [0, EVEN, 0]);
}

#[test]
fn weights_hold_among_those_who_are_as_full_as_they_should_be() {
    let of = |loads: [usize; 2]| {
        let member = |key: usize, weight| Seen {
            weight,
            ..seen(key, 0, loads[key])
        };
        shares(policy().step(Duration::ZERO, &[member(0, 1), member(1, 9)]))
    };
    assert_eq!(of([100, 900]), [EVEN; 2]);
    assert_eq!(of([0, 0]), [EVEN; 2]);
    assert!(of([500, 500])[0] < EVEN / 8);
    assert!(of([0, 900])[1] < EVEN);
}

#[test]
fn who_joins_starts_gently() {
    let mut policy = policy();
    policy.step(Duration::ZERO, &[seen(0, 0, 500), seen(1, 0, 500)]);
    let mut last = 0;
    for number in 1..200 {
        let members = [seen(0, 0, 500), seen(1, 0, 500), seen(2, 0, 0)];
        let share = policy.step(STEP * number, &members).shares[&2];
        assert!(share >= last);
        if number == 1 {
            assert!((1..=EVEN / 16).contains(&share), "{share}");
        }
        last = share;
    }
    // It is the emptiest by far.
    assert_eq!(last, EVEN);
}

#[test]
fn the_same_again_changes_nothing() {
    let mut policy = policy();
    let members = [seen(0, 0, 40), seen(1, 0, 10), seen(2, 0, 5)];
    let before = shares(policy.step(Duration::ZERO, &members));
    for number in 1..10 {
        assert_eq!(shares(policy.step(STEP * number, &members)), before);
    }
}

#[test]
fn long_lives_are_spread_within_hundredths() {
    // 8 members, 20,000 lives that end at random, 20 new ones a step; chance is a counter's hash.
    let mut number = 7u64;
    let mut chance = || {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) as u32
    };
    let mut policy = policy();
    let (mut loads, mut taken) = ([0usize; 8], [0u32; 8]);
    let mut members = Vec::new();
    let mut steps = 0;
    while members.len() < 10_000 || steps < 2000 {
        let seen: Vec<_> = (0..8)
            .map(|key| Seen {
                taken: taken[key],
                ..seen(key, 0, loads[key])
            })
            .collect();
        let shares = shares(policy.step(STEP * steps, &seen));
        let sum: u32 = shares.iter().sum();
        for _ in 0..20 {
            let mut at = chance() % sum;
            let key = shares.iter().position(|share| {
                let is_it = at < *share;
                at = at.wrapping_sub(*share);
                is_it
            });
            let key = key.unwrap();
            loads[key] += 1;
            taken[key] += 1;
            members.push(key);
            if members.len() > 10_000 {
                let ends = chance() as usize % members.len();
                loads[members.swap_remove(ends)] -= 1;
            }
        }
        steps += 1;
    }
    let fullest = loads.iter().max().unwrap();
    assert!(fullest * 100 <= 1250 * 103, "{loads:?}");
}

#[test]
fn it_rests_only_where_another_step_would_change_nothing() {
    let mut policy = policy();
    let members = [seen(0, 0, 3), seen(1, 0, 900), seen(2, 0, 0)];
    let rests = |policy: &Policy<usize>, seen: &[Seen<usize>]| policy.rests(seen.iter().copied());
    let first = policy.step(Duration::ZERO, &members);
    assert!(rests(&policy, &members));
    assert_eq!(policy.step(STEP, &members), first);
    for other in [seen(1, 0, 899), seen(1, 1, 900), seen(3, 0, 900)] {
        assert!(!rests(&policy, &[members[0], other, members[2]]));
    }
    assert!(!rests(&policy, &members[..2]));
    policy.stir();
    assert!(!rests(&policy, &members));
    // Something waits, or has come; or one has joined, and is not due its share yet.
    policy.step(2 * STEP, &[members[0], seen(1, 9, 900), members[2]]);
    assert!(!rests(&policy, &members));
    policy.step(3 * STEP, &members);
    assert!(!rests(&policy, &members), "9 have come");
    let joined = [members[0], members[1], members[2], seen(7, 0, 0)];
    for step in 4..4 + WARM {
        policy.step(step * STEP, &joined);
        assert!(!rests(&policy, &joined));
    }
    policy.step((4 + WARM) * STEP, &joined);
    assert!(rests(&policy, &joined));
}

/// A worker of another process may write anything.
#[test]
fn what_one_says_that_is_absurd_does_not_hide_what_the_others_have() {
    for absurd in [1 << 20, usize::MAX / 2, usize::MAX] {
        let shares = once(&[(0, 0), (0, 40), (0, 500), (0, absurd)]);
        assert!(shares[1] < shares[0] && shares[2] < shares[1], "{shares:?}");
        assert!(shares[2] * 4 < shares[0], "{shares:?}");
        assert!(shares[3] <= shares[2], "{shares:?}");
    }
    let mut policy = policy();
    for step in 0..100u32 {
        let liar = Seen {
            taken: step.wrapping_mul(0x9e37_79b9),
            ..seen(3, 0, 0)
        };
        let members = [seen(0, 0, 0), seen(1, 0, 200), seen(2, 0, 0), liar];
        let shares = shares(policy.step(STEP * step, &members));
        assert!(shares[1] * 4 < shares[0], "{step}: {shares:?}");
    }
}

/// A member that is held back does not get what an idle one may not get.
#[test]
fn who_is_held_back_gets_no_more_where_another_is_full() {
    let mut members: Vec<Member<usize>> = [(MOST, 0.9), (0.125, 0.05), (MOST, 0.03), (MOST, 0.02)]
        .into_iter()
        .enumerate()
        .map(|(key, (most, part))| Member {
            key,
            even: 0.25,
            load: 0.0,
            queue: 0,
            steps: 0,
            pace: Pace::default(),
            most,
            part,
        })
        .collect();
    bound(&mut members);
    let parts: Vec<f64> = members.iter().map(|member| member.part).collect();
    assert!(parts[0] <= 0.5 && parts[1] <= 0.125 * 0.25, "{parts:?}");
    assert!((parts.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{parts:?}");
}
