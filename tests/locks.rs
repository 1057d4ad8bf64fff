//! A caller's code may call the crate wherever the crate calls it, and what a caller drops is gone.

#![cfg(target_os = "linux")]

#[path = "util/engine.rs"]
mod engine;
mod util;

use std::fmt::Debug;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use engine::PATIENCE;
use reuseport::{Generation, Options, Roster, Steering};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use util::in_namespace;

/// Longer than any of this takes.
const SOON: Duration = Duration::from_secs(5);

const ADDR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4000);

/// Runs `f` on a thread of its own, which is left alone where it does not come back.
#[track_caller]
fn comes_back<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, told) = mpsc::channel();
    thread::spawn(move || done.send(f()));
    match told.recv_timeout(SOON) {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}"),
    }
}

/// All that only looks.
fn look(roster: &Roster<TcpListener>) -> usize {
    let debug = format!("{roster:?}");
    roster.places().len() + usize::from(roster.has_left(0)) + debug.len()
}

type Shared = Arc<OnceLock<Roster<TcpListener>>>;

#[test]
fn a_hook_looks_at_the_roster_while_a_member_joins() {
    let shared = Shared::default();
    let (seen, looked) = (shared.clone(), Arc::new(AtomicUsize::new(0)));
    let count = looked.clone();
    let options = Options::new().before_bind(move |_| {
        if let Some(roster) = seen.get() {
            look(roster);
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    let group = options.group("127.0.0.1:0", 2).unwrap();
    let roster = shared.get_or_init(|| group.roster()).clone();
    let joined = comes_back("a hook that looks at the roster", move || roster.join());
    assert_eq!(engine::number(&joined.unwrap()), 2);
    assert_eq!(looked.load(Ordering::Relaxed), 1);
}

/// Also where that changes what the other is about to change.
#[test]
fn a_hook_changes_the_roster_while_a_member_joins() {
    let shared = Shared::default();
    let seen = shared.clone();
    let options = Options::new().before_bind(move |_| {
        if let Some(roster) = seen.get() {
            roster.steer(&Steering::Cpu).unwrap();
            let leaving = roster.leave(0).unwrap();
            assert_eq!(engine::drain_blocking(leaving, SOON).unwrap(), 0);
        }
        Ok(())
    });
    let group = options.group("127.0.0.1:0", 3).unwrap();
    let roster = shared.get_or_init(|| group.roster()).clone();
    let joining = roster.clone();
    let joined = comes_back("a hook that changes the roster", move || joining.join());
    let member = joined.unwrap();
    let joined = engine::number(&member);
    assert!(joined == 0 || joined == 3, "{joined}");
    let mut places: Vec<usize> = roster.places().into_iter().flatten().collect();
    places.sort_unstable();
    assert_eq!(places, if joined == 0 { [0, 1, 2] } else { [1, 2, 3] });
}

#[test]
fn a_hook_looks_at_the_old_roster_while_the_next_generation_opens() {
    in_namespace("a hook of the next generation", || {
        let (group, first) = Options::new().generation(ADDR, 2).unwrap();
        engine::take_over(&first, PATIENCE).unwrap();
        let roster = group.roster();
        let options = Options::new().before_bind(move |_| {
            look(&roster);
            Ok(())
        });
        // A thread of this namespace.
        let opened = comes_back("a hook of the next generation", move || {
            options.generation(ADDR, 2).map(drop)
        });
        opened.unwrap();
        drop(group);
    });
}

/// Looks at everything whenever it is told something.
#[derive(Clone, Default)]
struct Curious {
    roster: Arc<Mutex<Option<Roster<TcpListener>>>>,
    generation: Arc<OnceLock<Arc<Generation>>>,
    told: Arc<Mutex<Vec<String>>>,
}

impl Subscriber for Curious {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "reuseport"
    }

    fn event(&self, event: &Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        let roster = self.roster.lock().unwrap().clone();
        if let Some(roster) = roster {
            look(&roster);
        }
        if let Some(generation) = self.generation.get() {
            assert!(!format!("{generation:?}").is_empty());
        }
        self.told.lock().unwrap().push(text.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Each call of its own, so that each that does not come back is known.
#[test]
fn a_subscriber_looks_at_the_roster_whatever_it_is_told() {
    const TEST: &str = "a_subscriber_looks_at_the_roster_whatever_it_is_told";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    let curious = Curious::default();
    // Of every thread, those of the crate too.
    tracing::subscriber::set_global_default(curious.clone()).unwrap();
    type Call = fn(&Roster<TcpListener>);
    let calls: [(&str, Call); 5] = [
        ("steer", |roster| roster.steer(&Steering::Cpu).unwrap()),
        ("join", |roster| drop(roster.join().unwrap())),
        ("leave", |roster| {
            let leaving = roster.leave(0).unwrap();
            assert_eq!(engine::drain_blocking(leaving, SOON).unwrap(), 0);
        }),
        ("a drain that is dropped", |roster| {
            drop(roster.leave(1).unwrap())
        }),
        ("a call that is refused", |roster| {
            roster.leave(77).map(drop).unwrap_err();
        }),
    ];
    let mut failed = Vec::new();
    for (what, call) in calls {
        let group = Options::new().group("127.0.0.1:0", 3).unwrap();
        let roster = group.roster();
        *curious.roster.lock().unwrap() = Some(roster.clone());
        curious.told.lock().unwrap().clear();
        let (done, told) = mpsc::channel();
        thread::spawn(move || {
            call(&roster);
            done.send(())
        });
        let told = told.recv_timeout(SOON / 2);
        // What does not come back must not keep the next.
        *curious.roster.lock().unwrap() = None;
        if told == Err(mpsc::RecvTimeoutError::Timeout) {
            failed.push(what);
        } else {
            assert!(!curious.told.lock().unwrap().is_empty(), "{what}");
        }
        drop(group);
    }
    assert!(failed.is_empty(), "these do not come back: {failed:?}");
}

#[test]
fn a_subscriber_looks_at_a_generation_that_takes_over() {
    const TEST: &str = "a_subscriber_looks_at_a_generation_that_takes_over";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("a subscriber of a takeover", || {
        let curious = Curious::default();
        tracing::subscriber::set_global_default(curious.clone()).unwrap();
        let (old, first) = Options::new().generation(ADDR, 2).unwrap();
        engine::take_over(&first, PATIENCE).unwrap();
        let (new, second) = Options::new().generation(ADDR, 2).unwrap();
        let second = Arc::new(second);
        *curious.roster.lock().unwrap() = Some(new.roster());
        curious.generation.set(second.clone()).unwrap();
        let taken = comes_back("a takeover that is watched", move || {
            engine::take_over(&second, SOON)
        });
        assert_eq!(taken.unwrap(), 0);
        first.relieved_blocking();
        assert!(!curious.told.lock().unwrap().is_empty());
        drop((old, new));
    });
}

/// A task's waker, of which it is known who has it.
struct Task;

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

/// Polls it once for a task; whether it is ready.
fn poll_as(task: &Arc<Task>, future: &mut (impl Future + Unpin + ?Sized)) -> bool {
    let waker = Waker::from(task.clone());
    let mut context = Context::from_waker(&waker);
    Pin::new(future).poll(&mut context).is_ready()
}

/// As the tasks of a server do, which wait for that beside their own work, and end.
#[test]
fn who_has_asked_whether_it_is_relieved_and_ended_leaves_nothing_behind() {
    in_namespace("tasks that end", || {
        let (group, generation) = Options::new().generation(ADDR, 1).unwrap();
        engine::take_over(&generation, PATIENCE).unwrap();
        let begin = Instant::now();
        let mut kept = 0;
        let mut asked = 0;
        for _ in 0..100_000 {
            let task = Arc::new(Task);
            let mut relieved = generation.relieved();
            assert!(!poll_as(&task, &mut relieved));
            drop(relieved);
            asked += 1;
            kept += Arc::strong_count(&task) - 1;
            if begin.elapsed() > SOON {
                break;
            }
        }
        let took = begin.elapsed();
        assert_eq!(
            (kept, asked),
            (0, 100_000),
            "wakers that are kept, and tasks, in {took:.1?}"
        );
        drop(group);
    });
}

/// One that goes from task to task.
#[test]
fn a_future_knows_only_who_has_polled_it_last() {
    in_namespace("a future that is polled by many", || {
        let (old, first) = Options::new().generation(ADDR, 2).unwrap();
        engine::take_over(&first, PATIENCE).unwrap();
        let (_new, second) = Options::new().generation(ADDR, 2).unwrap();
        // Somebody waits to be accepted, so that it does not end.
        let _client = std::net::TcpStream::connect(ADDR).unwrap();
        let group = Options::new().group("127.0.0.1:0", 2).unwrap();
        let _other = std::net::TcpStream::connect(group.local_addr()).unwrap();
        let waits = (0..2).find(|&number| {
            let members: Vec<_> = group.iter().collect();
            reuseport::queue(members[number]).unwrap().waiting == 1
        });
        let leaving = group.roster().leave(waits.unwrap()).unwrap();

        let kept = |future: &mut (dyn Future<Output = ()> + Unpin)| {
            let tasks: Vec<_> = (0..1_000).map(|_| Arc::new(Task)).collect();
            for task in &tasks {
                assert!(!poll_as(task, &mut *future));
            }
            let counts = tasks.iter().map(|task| Arc::strong_count(task) - 1);
            counts.sum::<usize>()
        };
        let mut relieved = first.relieved();
        let mut draining = Box::pin(async { drop(engine::drain(leaving, PATIENCE).await) });
        let mut taking = Box::pin(async { drop(engine::taking_over(&second, SOON).await) });
        let all = [
            ("relieved", kept(&mut relieved)),
            ("drain", kept(&mut draining)),
            ("takeover", kept(&mut taking)),
        ];
        let are_few = all.iter().all(|&(_, kept)| kept <= 1);
        assert!(are_few, "of 1,000 wakers are kept: {all:?}");
        drop((old, draining, taking));
    });
}
