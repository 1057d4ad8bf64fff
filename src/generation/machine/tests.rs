//! Two generations, and everything that can become of them: each is killed, hangs, is refused a step or
//! is dropped at every point, in every order of what happens.

mod act;
mod check;
mod world;

use std::collections::HashSet;

use super::*;
use world::{Step, World};

/// The way to a world, which is printed where that is wrong.
#[derive(Clone, Default)]
struct Path(Vec<Step>);

impl Drop for Path {
    fn drop(&mut self) {
        static PRINTED: std::sync::Once = std::sync::Once::new();
        if std::thread::panicking() {
            PRINTED.call_once(|| eprintln!("after {:?}", self.0));
        }
    }
}

fn walk(mode: Mode) -> usize {
    let mut seen = HashSet::new();
    let mut todo = vec![(World::new(mode), Path::default())];
    let mut ends = 0;
    while let Some((world, path)) = todo.pop() {
        if !seen.insert(world.clone()) {
            continue;
        }
        world.check();
        let due = world.due();
        if due.is_empty() {
            ends += 1;
            world.check_end();
        }
        for step in due.into_iter().chain(world.possible()) {
            let mut next = world.clone();
            let mut path = path.clone();
            path.0.push(step);
            next.step(step);
            todo.push((next, path));
        }
    }
    assert!(ends > 10, "{ends}");
    seen.len()
}

#[test]
fn whatever_becomes_of_two_generations_one_of_them_serves_connections() {
    let worlds = walk(Mode::Connections);
    assert!(worlds > 1000, "{worlds}");
}

#[test]
fn whatever_becomes_of_two_generations_one_of_them_serves_datagrams() {
    let worlds = walk(Mode::Datagrams);
    assert!(worlds > 1000, "{worlds}");
}

#[test]
fn whatever_becomes_of_two_generations_one_of_them_serves_flows() {
    let worlds = walk(Mode::Flows);
    assert!(worlds > 500, "{worlds}");
}

/// A predecessor that hangs keeps no successor waiting.
#[test]
fn a_predecessor_that_does_not_answer_is_taken_over_all_the_same() {
    let mut machine = Machine::successor(Mode::Connections);
    machine.on(Event::TakeOver);
    assert!(machine.patience().is_some());
    assert_eq!(machine.on(Event::Expired), [Action::Program, Action::Drain]);
    machine.on(Event::Drained);
    assert!(machine.patience().is_some());
    machine.on(Event::Expired);
    assert_eq!(machine.state(), State::Serving);
}

/// A successor that hangs before it takes over keeps no other out.
#[test]
fn a_successor_that_hangs_is_superseded() {
    let mut machine = Machine::first(Mode::Connections);
    machine.on(Event::Arrived);
    assert!(!machine.takes_arrival(Duration::from_secs(1)));
    assert!(machine.takes_arrival(Duration::from_secs(5)));
    let actions = machine.on(Event::Arrived);
    let superseded = Action::Say(Peer::Successor, Word::Superseded);
    assert_eq!(actions, [superseded, Action::TakeBack, Action::Lend]);
}
