//! Tens of thousands of connections, while the listeners that serve them come and go.

#![cfg(target_os = "linux")]

#[macro_use]
mod util;
#[path = "util/link.rs"]
mod link;
#[path = "util/load.rs"]
mod load;
#[path = "util/serve.rs"]
mod serve;
#[path = "util/servers.rs"]
mod servers;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use link::Link;
use load::{Counters, Load, Outcomes};
use reuseport::{Options, Smol, Spread, Tokio};
use serve::Tally;
use servers::Servers;
use util::{Runtime, as_user, in_namespace};

const CONNECTIONS: usize = 20_000;
const PER_SECOND: u32 = 10_000;
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// Of no account on any system (kernel: overflowuid).
const NOBODY: u32 = 65534;

on_every_runtime!(
    a_group_that_stays_loses_nothing
    plain_closing_loses_connections
    leaving_loses_nothing
    leaving_loses_nothing_on_a_slow_line
    leaving_loses_nothing_on_a_lossy_line
    generations_lose_nothing
    generations_lose_nothing_on_a_slow_line
    generations_lose_nothing_on_a_lossy_line
    generations_of_one_queue_lose_nothing
    canaries_lose_nothing
);

fn a_group_that_stays_loses_nothing<R: Runtime>() {
    let _alone = alone();
    in_namespace("a load on a group that stays", || {
        let before = Counters::read();
        let (outcomes, tally) = as_user(NOBODY, "a load on a group that stays", || {
            let group = Servers::<R>::group("127.0.0.1".parse().unwrap());
            let outcomes = load(group.addr).run();
            (outcomes, group.stop())
        })?;
        let counted = Counters::read().since(&before);
        report::<R>("stays", &outcomes, counted);
        assert_nothing_lost(&outcomes, &tally, counted);
        Some(())
    });
}

#[test]
fn a_group_that_stays_loses_nothing_on_a_slow_line() {
    let _alone = alone();
    let Some(link) = Link::new("a load on a slow line", ROUND_TRIP, 0.0) else {
        return;
    };
    for addr in Link::SERVER {
        let before = [
            link.on_server(Counters::read),
            link.on_client(Counters::read),
        ];
        let group = link.on_server(|| Servers::<Tokio>::group(addr));
        let connections = CONNECTIONS / 2;
        let load = Load {
            connections,
            ..load(group.addr)
        };
        let outcomes = link.on_client(|| load.run());
        let tally = group.stop();
        let after = [
            link.on_server(Counters::read),
            link.on_client(Counters::read),
        ];
        for (after, before) in after.iter().zip(&before) {
            let counted = after.since(before);
            report::<Tokio>("stays, slow line", &outcomes, counted);
            assert_nothing_lost(&outcomes, &tally, counted);
        }
        assert_eq!(link.dropped(), 0);
    }
}

/// What the line loses is sent again.
#[test]
fn a_group_that_stays_loses_nothing_on_a_lossy_line() {
    let _alone = alone();
    let Some(link) = Link::new("a load on a lossy line", ROUND_TRIP, 1.0) else {
        return;
    };
    let group = link.on_server(|| Servers::<Smol>::group(Link::SERVER[0]));
    let (outcomes, counted) = link.on_client(|| {
        let before = Counters::read();
        let load = load(group.addr);
        (load.run(), Counters::read().since(&before))
    });
    let tally = group.stop();
    report::<Smol>("stays, line loses 1 %", &outcomes, counted);
    outcomes.assert_complete(CONNECTIONS);
    assert_eq!((outcomes.lost(), link.dropped()), (0, 0), "{outcomes}");
    assert_eq!(tally.answered(), CONNECTIONS, "{tally:?}");
}

/// If nothing were lost here, then those that lose nothing would prove nothing.
fn plain_closing_loses_connections<R: Runtime>() {
    let _alone = alone();
    in_namespace("plain closing under load", || {
        let mut group = Servers::<R>::group("127.0.0.1".parse().unwrap());
        let before = Counters::read();
        let load = load(group.addr).start();
        let closed = group.replace_until(Duration::from_millis(2), || load.finished());
        let outcomes = load.join();
        let counted = Counters::read().since(&before);
        report::<R>(&format!("{closed} closed"), &outcomes, counted);
        group.stop();
        outcomes.assert_complete(CONNECTIONS);
        assert!(outcomes.reset > 0, "{outcomes}");
    });
}

#[test]
fn plain_closing_loses_connections_on_a_slow_line() {
    let _alone = alone();
    let Some(link) = Link::new("plain closing on a slow line", ROUND_TRIP, 0.0) else {
        return;
    };
    let (mut group, before) =
        link.on_server(|| (Servers::<Tokio>::group(Link::SERVER[0]), Counters::read()));
    let load = link.on_client(|| load(group.addr).start());
    // A listener that is there for a round trip only loses all of its connections.
    let every = ROUND_TRIP * 5;
    let closed = link.on_server(|| group.replace_until(every, || load.finished()));
    let outcomes = load.join();
    let counted = link.on_server(|| Counters::read().since(&before));
    report::<Tokio>(&format!("{closed} closed, slow line"), &outcomes, counted);
    group.stop();
    assert_eq!(link.dropped(), 0);
    outcomes.assert_complete(CONNECTIONS);
    assert!(outcomes.reset > 0, "{outcomes}");
}

/// How members come and go.
type Change<R> = fn(&mut Servers<R>, &dyn Fn() -> bool) -> usize;

fn leaving_loses_nothing<R: Runtime>() {
    on_loopback::<R>("left", CONNECTIONS, &Options::new(), Servers::leave_until);
}

fn leaving_loses_nothing_on_a_slow_line<R: Runtime>() {
    on_a_line::<R>(
        "left",
        CONNECTIONS,
        0.0,
        &Options::new(),
        Servers::leave_until,
    );
}

fn leaving_loses_nothing_on_a_lossy_line<R: Runtime>() {
    on_a_line::<R>(
        "left",
        CONNECTIONS,
        1.0,
        &Options::new(),
        Servers::leave_until,
    );
}

fn generations_lose_nothing<R: Runtime>() {
    on_loopback::<R>(
        "generations",
        CONNECTIONS,
        &Options::new(),
        Servers::relieve_until,
    );
}

fn generations_lose_nothing_on_a_slow_line<R: Runtime>() {
    on_a_line::<R>(
        "generations",
        CONNECTIONS,
        0.0,
        &Options::new(),
        Servers::relieve_until,
    );
}

fn generations_lose_nothing_on_a_lossy_line<R: Runtime>() {
    on_a_line::<R>(
        "generations",
        CONNECTIONS,
        1.0,
        &Options::new(),
        Servers::relieve_until,
    );
}

fn canaries_lose_nothing<R: Runtime>() {
    on_loopback::<R>("canaries", CONNECTIONS, &Options::new(), Servers::try_until);
}

/// One whose accept blocks would never hear that it is relieved: `generation_queue` has these, by an `Incoming`.
fn generations_of_one_queue_lose_nothing<R: Runtime>() {
    if R::NONBLOCKING {
        on_loopback::<R>(
            "generations of one queue",
            CONNECTIONS,
            &one_queue(),
            Servers::relieve_until,
        );
    }
}

fn one_queue() -> Options {
    Options::new().spread(Spread::Queue)
}

fn on_loopback<R: Runtime>(what: &str, connections: usize, options: &Options, change: Change<R>) {
    let _alone = alone();
    in_namespace("members that leave under load", || {
        let before = Counters::read();
        let (outcomes, tally, changes) = as_user(NOBODY, "members that leave under load", || {
            let mut group = Servers::<R>::generation("127.0.0.1".parse().unwrap(), options.clone());
            let load = Load {
                connections,
                ..load(group.addr)
            };
            let load = load.start();
            let changes = change(&mut group, &|| load.finished());
            (load.join(), group.stop(), changes)
        })?;
        let counted = Counters::read().since(&before);
        report::<R>(&format!("{changes} {what}"), &outcomes, counted);
        assert!(changes > 1);
        assert_nothing_lost(&outcomes, &tally, counted);
        // A SYN that met a listener on its way out would be sent again a second later.
        assert_eq!(counted.syn_retrans, 0, "{counted}");
        assert_no_accept_error::<R>(&tally);
        Some(())
    });
}

/// Half of them over each family.
fn on_a_line<R: Runtime>(
    what: &str,
    connections: usize,
    loss_percent: f64,
    options: &Options,
    change: Change<R>,
) {
    let _alone = alone();
    let Some(link) = Link::new("members that leave on a line", ROUND_TRIP, loss_percent) else {
        return;
    };
    for addr in Link::SERVER {
        let sides = || {
            [
                link.on_server(Counters::read),
                link.on_client(Counters::read),
            ]
        };
        let before = sides();
        let unprivileged = |f: &(dyn Fn() -> Servers<R> + Sync)| {
            as_user(NOBODY, "members that leave on a line", f)
        };
        let Some(mut group) =
            link.on_server(|| unprivileged(&|| Servers::<R>::generation(addr, options.clone())))
        else {
            return;
        };
        let load = Load {
            connections: connections / 2,
            ..load(group.addr)
        };
        let load = link.on_client(|| load.start());
        let changes = link.on_server(|| {
            as_user(NOBODY, "members that leave on a line", || {
                change(&mut group, &|| load.finished())
            })
            .unwrap_or_default()
        });
        let outcomes = load.join();
        let tally = group.stop();
        let after = sides();
        let counted = after
            .iter()
            .zip(&before)
            .map(|(after, before)| after.since(before));
        for (side, counted) in ["server", "client"].into_iter().zip(counted) {
            let what = format!("{changes} {what}, {loss_percent} % loss, {side}");
            report::<R>(&what, &outcomes, counted);
            assert_nothing_lost(&outcomes, &tally, counted);
            if side == "server" {
                assert_eq!(counted.out_rsts, 0, "{counted}");
            }
            if loss_percent == 0.0 {
                assert_eq!(counted.syn_retrans, 0, "{counted}");
            }
        }
        assert!(changes > 1);
        assert_eq!(link.dropped(), 0);
        assert_no_accept_error::<R>(&tally);
    }
}

/// How long it takes on a quiet line: two round trips, and what two grace periods of the kernel take.
#[test]
fn a_member_leaves_soon() {
    let _alone = alone();
    let Some(link) = Link::new("how long leaving takes", ROUND_TRIP, 0.0) else {
        return;
    };
    let mut group = link.on_server(|| Servers::<Tokio>::group(Link::SERVER[0]));
    let load = Load {
        connections: 2_000,
        per_second: 500,
        ..load(group.addr)
    };
    let load = link.on_client(|| load.start());
    let (mut took, mut barriers) = (Vec::new(), Vec::new());
    link.on_server(|| {
        while !load.finished() {
            // The machine may be busy: a grace period is measured beside each.
            let begin = Instant::now();
            grace_period();
            barriers.push(begin.elapsed());
            took.push(group.leave_one(0));
        }
    });
    let outcomes = load.join();
    group.stop();
    assert_eq!(outcomes.lost(), 0, "{outcomes}");
    took.sort();
    barriers.sort();
    let (took, barrier) = (took[took.len() / 2], barriers[barriers.len() / 2]);
    println!(
        "left in {took:?} with a round trip of {ROUND_TRIP:?} and a grace period of {barrier:?}"
    );
    // Two round trips and 50 ms where the machine is quiet; where it is not, threads wait besides.
    assert!(took < 2 * ROUND_TRIP + (10 * barrier).max(Duration::from_millis(250)));
}

/// A million connections: `cargo test --release --test soak -- --ignored --nocapture long`
#[test]
#[ignore = "takes some minutes"]
fn long_soak() {
    const MANY: usize = 1_000_000;
    let options = Options::new();
    on_loopback::<Tokio>("left", MANY, &options, Servers::leave_until);
    on_loopback::<Tokio>("generations", MANY, &options, Servers::relieve_until);
    for loss_percent in [0.0, 1.0] {
        on_a_line::<Tokio>("left", MANY, loss_percent, &options, Servers::leave_until);
        on_a_line::<Tokio>(
            "generations",
            MANY,
            loss_percent,
            &options,
            Servers::relieve_until,
        );
    }
    plain_closing_loses_connections::<Tokio>();
    plain_closing_loses_connections_on_a_slow_line();
}

/// The same by canaries: `cargo test --release --test soak -- --ignored --nocapture canaries`
#[test]
#[ignore = "takes some minutes"]
fn long_soak_of_canaries() {
    const MANY: usize = 1_000_000;
    let options = Options::new();
    on_loopback::<Tokio>("canaries", MANY, &options, Servers::try_until);
    for loss_percent in [0.0, 1.0] {
        on_a_line::<Tokio>("canaries", MANY, loss_percent, &options, Servers::try_until);
    }
}

/// The same by one queue: `cargo test --release --test soak -- --ignored --nocapture one_queue`
#[test]
#[ignore = "takes some minutes"]
fn long_soak_of_one_queue() {
    const MANY: usize = 1_000_000;
    let what = "generations of one queue";
    on_loopback::<Tokio>(what, MANY, &one_queue(), Servers::relieve_until);
    for loss_percent in [0.0, 1.0] {
        on_a_line::<Tokio>(
            what,
            MANY,
            loss_percent,
            &one_queue(),
            Servers::relieve_until,
        );
    }
}

/// Two loads at once would be half as many connections each.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(to: SocketAddr) -> Load {
    Load {
        to: vec![to],
        connections: CONNECTIONS,
        per_second: PER_SECOND,
        at_most: 2_000,
        timeout: Duration::from_secs(10),
    }
}

/// Only an error ends an accept that blocks, and by then another may have the number.
fn assert_no_accept_error<R: Runtime>(tally: &Tally) {
    if R::NONBLOCKING {
        assert_eq!(tally.accept_errors(), 0, "{tally:?}");
    }
}

fn grace_period() {
    rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global).unwrap();
}

/// For whoever runs them with --nocapture.
fn report<R: Runtime>(what: &str, outcomes: &Outcomes, counted: Counters) {
    println!("{}, {what}: {outcomes}; {counted}", R::NAME);
}

fn assert_nothing_lost(outcomes: &Outcomes, tally: &Tally, counted: Counters) {
    outcomes.assert_complete(outcomes.attempts);
    assert_eq!(outcomes.lost(), 0, "{outcomes}");
    // What a server sent may be sent twice, or be overtaken by the end on another processor; a client
    // that has closed answers it with a RST, which ends no connection.
    assert_eq!(
        (counted.estab_resets, counted.attempt_fails),
        (0, 0),
        "{counted}"
    );
    assert_eq!(counted.listen_overflows, 0, "{counted}");
    assert_eq!(counted.listen_drops, 0, "{counted}");
    assert_eq!(tally.accepted(), outcomes.answered, "{tally:?}");
    assert_eq!(tally.answered(), outcomes.answered, "{tally:?}");
}
