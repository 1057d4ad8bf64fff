//! Generations that meet in a folder, as on systems where processes have no names at which to meet.

#![cfg(target_os = "linux")]

#[path = "util/engine.rs"]
mod engine;
#[path = "util/load.rs"]
mod load;
#[path = "util/process.rs"]
mod process;
#[path = "util/server.rs"]
mod server;
#[path = "util/traffic.rs"]
mod traffic;
mod util;
#[path = "util/worker.rs"]
mod worker;

use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::{Before, PATIENCE};
use process::Process;
use reuseport::{Options, Spread};
use traffic::{ADDR, Traffic, ask, assert_all_answered};
use util::in_namespace;

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    process::obey();
}

/// A folder that no other test uses, and that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .subsec_nanos();
        let folder = std::env::temp_dir().join(format!("rp-{name}-{}-{now}", std::process::id()));
        // The crate makes it.
        assert!(!folder.exists());
        Self(folder)
    }

    fn group(&self, n: usize, spread: &str) -> String {
        format!("tcp {ADDR} {n} folder={} {spread}", self.0.display())
            .trim()
            .to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start(group: &str, tag: u8, before: Before) -> Process {
    let mut process = Process::start();
    assert_eq!(process.open(group).unwrap().before, before);
    assert_eq!(process.take_over(PATIENCE).unwrap(), 0);
    process.ask(&format!("serve {tag}"));
    process
}

fn processes_relieve_each_other(spread: &str) {
    in_namespace("processes that meet in a folder", || {
        let folder = Folder::new(&format!("relieve{spread}"));
        let mut old = start(&folder.group(2, spread), 1, Before::Nothing);
        let traffic = Traffic::tcp(ADDR);
        for (tag, n) in [(2, 3), (3, 1), (4, 2)] {
            traffic.go_on(200);
            let new = start(&folder.group(n, spread), tag, Before::Process(old.pid()));
            old.ends();
            old = new;
        }
        traffic.go_on(200);
        traffic.assert_nothing_lost("processes that meet in a folder");
        old.kill();
        // What it has left behind is no process.
        let last = start(&folder.group(1, spread), 9, Before::Nothing);
        assert_all_answered(ADDR, 9);
        last.kill();
    });
}

#[test]
fn with_one_queue() {
    processes_relieve_each_other("queue");
}

#[test]
fn with_a_queue_each() {
    processes_relieve_each_other("");
}

/// One becomes the first, and each other the next of another.
#[test]
fn several_start_at_once() {
    in_namespace("several processes that meet in a folder", || {
        for spread in ["queue", ""] {
            let folder = Folder::new(&format!("several{spread}"));
            let group = folder.group(2, spread);
            let mut befores = Vec::new();
            let mut processes = Vec::new();
            thread::scope(|scope| {
                let started: Vec<_> = (0..5)
                    .map(|_| {
                        scope.spawn(|| {
                            let mut process = Process::start();
                            let before = process.open(&group).unwrap().before;
                            assert_eq!(process.take_over(PATIENCE).unwrap(), 0);
                            (process, before)
                        })
                    })
                    .collect();
                for thread in started {
                    let (process, before) = thread.join().unwrap();
                    processes.push(process);
                    befores.push(before);
                }
            });
            let firsts = befores.iter().filter(|before| **before == Before::Nothing);
            assert_eq!(firsts.count(), 1, "{befores:?}");
            for process in &processes {
                let followers = befores
                    .iter()
                    .filter(|before| **before == Before::Process(process.pid()));
                assert!(followers.count() <= 1, "{befores:?}");
            }
        }
    });
}

/// As two containers with a volume in common: the port stays where the first process opened it.
#[test]
fn across_network_namespaces() {
    let folder = Folder::new("namespaces");
    in_namespace("a folder of two network namespaces", || {
        let old = start(&folder.group(2, "queue"), 1, Before::Nothing);
        let traffic = Traffic::tcp(ADDR);
        traffic.go_on(100);
        let before = Before::Process(old.pid());
        let new = in_namespace("the other one", || {
            start(&folder.group(3, "queue"), 2, before)
        });
        old.ends();
        traffic.go_on(100);
        assert_eq!(ask(ADDR).unwrap(), 2);
        traffic.assert_nothing_lost("a restart from another network namespace");
        drop(new);
    });
}

#[test]
fn one_that_is_killed_while_it_opens_is_forgotten() {
    in_namespace("a folder, and processes that are killed", || {
        let folder = Folder::new("killed");
        let group = folder.group(2, "queue");
        for round in 0..15_u64 {
            let mut process = Process::start();
            // It runs.
            process.ask("served");
            process.tell(&format!("open {group}"));
            thread::sleep(Duration::from_micros(round * 200));
            process.kill();
            let next = start(&group, 7, Before::Nothing);
            assert_eq!(ask(ADDR).unwrap(), 7);
            next.kill();
        }
    });
}

#[test]
fn what_is_amiss_with_a_folder_is_a_sentence() {
    in_namespace("folders that are refused", || {
        let folder = Folder::new("amiss");
        let at = folder.0.display();
        let refusal = |folder: &std::path::Path| {
            let options = Options::new().spread(Spread::Queue).rendezvous(folder);
            let error = options.generation(ADDR, 1).unwrap_err();
            (error.kind(), error.to_string())
        };
        let cannot =
            format!("cannot open a generation on {ADDR}: the process that serves is not found");
        drop(Options::new().rendezvous(&folder.0).generation(ADDR, 1));
        std::fs::set_permissions(&folder.0, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(
            refusal(&folder.0),
            (
                ErrorKind::PermissionDenied,
                format!("{cannot}: other users may write into the folder {at} (its mode is 777)")
            )
        );
        std::fs::set_permissions(&folder.0, std::fs::Permissions::from_mode(0o700)).unwrap();
        let file = folder.0.join("file");
        std::fs::File::create(&file)
            .unwrap()
            .write_all(b"x")
            .unwrap();
        assert_eq!(
            refusal(&file).1,
            format!("{cannot}: {} is no folder", file.display())
        );
        let (kind, text) = refusal(&folder.0.join("a/b"));
        assert_eq!(kind, ErrorKind::NotFound);
        assert!(text.starts_with(&cannot), "{text}");
        let deep = folder.0.join("x".repeat(120));
        let (kind, text) = refusal(&deep);
        assert_eq!(kind, ErrorKind::InvalidInput);
        let len = deep.as_os_str().len();
        assert_eq!(
            text,
            format!(
                "{cannot}: the path of its folder is {len} bytes long, and a UNIX address has room for 86"
            )
        );
        util::as_user(65_534, "a folder of another user", || {
            assert_eq!(
                refusal(&folder.0),
                (
                    ErrorKind::PermissionDenied,
                    format!(
                        "{cannot}: the folder {at} is user 0's, and this process is user 65534's"
                    )
                )
            );
        });
        // No socket has the port.
        drop(Options::new().generation(ADDR, 1).unwrap());
    });
}
