//! Which member has which of the slots that flows of datagrams are hashed to.
//!
//! A flow moves only when its own member's weight falls, or another's rises: each slot has the member that wins it
//! by chance (weighted rendezvous hashing), and this chance is always the same. Other flows move where there are many
//! members: when more of them need more slots, and when one that has won none gets one, or gives it back.

use super::Seat;

/// More make no difference that could be noticed.
const MOST: usize = 1024;
/// With fewer, members that have the same weight would have too different parts.
const LEAST: usize = 256;

/// How many slots there are among so many members: a power of two, and no more than `room` unless that is less
/// than [`LEAST`].
fn count(members: usize, room: usize) -> usize {
    let most = match room.checked_ilog2() {
        Some(log) => (1 << log).clamp(LEAST, MOST),
        None => LEAST,
    };
    (8 * members).next_power_of_two().clamp(LEAST, most)
}

/// The place of each slot's member; none where no member has a weight.
///
/// Each member that has a weight has a slot, as long as there are enough.
pub(super) fn owners<'a>(seats: impl Iterator<Item = &'a Seat>, room: usize) -> Vec<usize> {
    let seats: Vec<_> = seats.collect();
    let count = count(seats.len(), room);
    let able: Vec<_> = seats.into_iter().filter(|seat| seat.share > 0).collect();
    let mut owners = Vec::with_capacity(count);
    for slot in 0..count {
        let scores = able.iter().map(|seat| score(slot, seat));
        let best = scores
            .enumerate()
            .max_by(|one, other| one.1.total_cmp(&other.1));
        owners.extend(best.map(|(owner, _)| owner));
    }
    let mut counts = vec![0; able.len()];
    owners.iter().for_each(|owner| counts[*owner] += 1);
    for (at, seat) in able.iter().enumerate() {
        if counts[at] > 0 {
            continue;
        }
        let spare = (0..owners.len()).filter(|slot| counts[owners[*slot]] > 1);
        let best = spare.max_by(|one, other| score(*one, seat).total_cmp(&score(*other, seat)));
        if let Some(slot) = best {
            counts[owners[slot]] -= 1;
            counts[at] += 1;
            owners[slot] = at;
        }
    }
    owners.iter().map(|owner| able[*owner].place).collect()
}

/// The member with the greatest has the slot.
fn score(slot: usize, seat: &Seat) -> f64 {
    // One that has no number has its place, which none of the numbers is.
    let key = seat
        .number
        .map_or(!(seat.place as u32), |number| number as u32);
    chance(slot, key).ln() / f64::from(seat.share)
}

/// A number between 0 and 1 that is always the same for these two (splitmix64).
fn chance(slot: usize, key: u32) -> f64 {
    let both = (slot as u64) << 32 ^ u64::from(key);
    let mut bits = both.wrapping_add(0x9E37_79B9_7F4A_7C15);
    for (shift, factor) in [(30, 0xBF58_476D_1CE4_E5B9), (27, 0x94D0_49BB_1331_11EB)] {
        bits = (bits ^ bits >> shift).wrapping_mul(factor);
    }
    let bits = bits ^ bits >> 31;
    ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(seats: &[Seat]) -> Vec<usize> {
        super::owners(seats.iter(), MOST)
    }

    fn members(shares: impl IntoIterator<Item = u32>) -> Vec<Seat> {
        let seat = |(number, share)| Seat {
            place: number,
            number: Some(number),
            gets_new: true,
            apart: false,
            share,
        };
        (0..).zip(shares).map(seat).collect()
    }

    fn has(owners: &[usize], place: usize) -> usize {
        owners.iter().filter(|owner| **owner == place).count()
    }

    #[test]
    fn a_slot_moves_only_from_who_is_given_less_and_to_who_is_given_more() {
        let all = members([64; 8]);
        let before = owners(&all);
        assert!((0..8).all(|place| (16..=50).contains(&has(&before, place))));
        let only_from = |place: usize, after: &[usize]| {
            let mut both = before.iter().zip(after);
            both.all(|(before, after)| *before == place || before == after)
        };
        // One gets nothing: what it had is spread, and nothing else moves.
        let mut without = all.clone();
        without[3].share = 0;
        let after = owners(&without);
        assert!(has(&after, 3) == 0 && only_from(3, &after));
        // Another stands in its place then, and has what it had.
        let mut elsewhere = all.clone();
        elsewhere[7].place = 3;
        elsewhere.remove(3);
        let expected = after
            .iter()
            .map(|place| if *place == 7 { 3 } else { *place });
        assert_eq!(owners(&elsewhere), expected.collect::<Vec<_>>());
        // One gets less: it loses slots, and nothing else moves.
        let mut less = all.clone();
        less[5].share = 8;
        let after = owners(&less);
        assert!(has(&after, 5) < has(&before, 5) && only_from(5, &after));
        assert_eq!(owners(&members([0, 0])), []);
    }

    #[test]
    fn each_that_has_a_weight_has_a_slot() {
        for n in [1, 2, 16, 64, 128, 256, 1024] {
            let even = owners(&members(vec![4096; n]));
            assert!((0..n).all(|place| has(&even, place) > 0), "{n}");
            let one_apart =
                |of, weight| members((0..n as u32).map(|at| if at == of { weight } else { 4096 }));
            for weight in [1, u32::MAX] {
                let owners = owners(&one_apart(0, weight));
                assert!((0..n).all(|place| has(&owners, place) > 0), "{n} {weight}");
            }
            assert_eq!(has(&owners(&one_apart(0, 0)), 0), 0);
        }
        // Those that are too many share by chance what there is.
        let many = owners(&members(vec![1; 2000]));
        assert_eq!(many.len(), MOST);
        for (members, room, slots) in [
            (2, 0, 256),
            (1000, 700, 512),
            (1000, 5000, 1024),
            (33, 5000, 512),
        ] {
            assert_eq!(count(members, room), slots);
        }
    }

    #[test]
    fn slots_go_by_the_weights() {
        let owners = owners(&members((0..64).map(|at| 1 + at / 32)));
        let first: usize = (0..32).map(|place| has(&owners, place)).sum();
        // A third of 512.
        assert!((140..=200).contains(&first), "{first}");
    }
}
