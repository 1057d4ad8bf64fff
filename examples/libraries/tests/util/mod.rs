//! What the tests of all three libraries need: five runtimes, and servers that are replaced.

#![allow(unreachable_pub, reason = "a module of several crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

#[path = "../../../../tests/outside/runtimes/src/async_io.rs"]
mod async_io;

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use async_io::AsyncIo;
use reuseport::{AsyncStd, Generation, Serve, Smol, Std, Tokio, local_addr};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a test of a generic function for each async runtime; `AsyncIo` is from outside of the crate.
#[allow(unused_macros, reason = "no test file uses all of it")]
macro_rules! async_tests {
    ($body:ident) => {
        #[test]
        fn tokio() {
            super::$body::<reuseport::Tokio>();
        }
        #[test]
        fn smol() {
            super::$body::<reuseport::Smol>();
        }
        #[test]
        fn async_std() {
            super::$body::<reuseport::AsyncStd>();
        }
        #[test]
        fn async_io() {
            super::$body::<crate::util::AsyncIo>();
        }
    };
}

/// The same of several functions, for each runtime.
#[allow(unused_macros, reason = "no test file uses all of it")]
macro_rules! on_every_runtime {
    ($($body:ident)*) => {
        $(mod $body {
            #[test]
            fn std() {
                super::$body::<reuseport::Std>();
            }
            async_tests!($body);
        })*
    };
}

/// A runtime as the main function of a user's program starts it.
pub trait Main: reuseport::Runtime {
    fn block_on<F: Future>(future: F) -> F::Output;
}

impl Main for Std {
    fn block_on<F: Future>(future: F) -> F::Output {
        smol::block_on(future)
    }
}

impl Main for Tokio {
    fn block_on<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(future)
    }
}

impl Main for Smol {
    fn block_on<F: Future>(future: F) -> F::Output {
        smol::block_on(future)
    }
}

impl Main for AsyncStd {
    fn block_on<F: Future>(future: F) -> F::Output {
        async_std::task::block_on(future)
    }
}

impl Main for AsyncIo {
    fn block_on<F: Future>(future: F) -> F::Output {
        ::async_io::block_on(future)
    }
}

/// A server that runs on a thread, as in a process of its own.
pub struct Server {
    pub addr: SocketAddr,
    pub generation: Generation,
    thread: JoinHandle<io::Result<()>>,
}

impl Server {
    /// `serve` has the listener and its generation.
    pub fn start<R: Main, F: Future<Output = io::Result<()>>>(
        addr: SocketAddr,
        serve: impl FnOnce(R::TcpListener, Generation) -> F + Send + 'static,
    ) -> Self {
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            R::block_on(async {
                let (listener, generation) = R::serve(addr)?;
                tell.send((local_addr(&listener)?, generation.clone()))
                    .unwrap();
                serve(listener, generation).await
            })
        });
        let (addr, generation) = told.recv().unwrap();
        Self {
            addr,
            generation,
            thread,
        }
    }

    /// Waits until it has taken over from the one before, which then ends by itself.
    pub fn replaces(&self, before: Self) {
        let drained = self.generation.take_over_blocking(PATIENCE).unwrap();
        assert!(drained.is_empty(), "{drained:?}");
        before.ends();
    }

    pub fn ends(self) {
        self.thread.join().unwrap().unwrap();
        assert!(self.generation.outcome().unwrap().is_empty());
    }

    pub fn stop(self) {
        self.generation.stop();
        self.ends();
    }
}

/// An address of this machine that no other test has: a generation has no port 0.
pub fn localhost() -> SocketAddr {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let next = u8::try_from(NEXT.fetch_add(1, Relaxed)).unwrap();
    SocketAddr::from(([127, high | 1, low, next], 4000))
}

pub fn skip(what: &str) {
    // Past the capture of the test harness.
    let _ = writeln!(io::stderr(), "not checked: {what}");
}

/// Runs a program of Debian's; none where there is no such program.
pub fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            skip(&format!("{program} as a client (no such program)"));
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// Clients that ask one after the other, until they are told to end; each attempt counts.
pub struct Clients {
    all: Arc<All>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

#[derive(Default)]
struct All {
    end: AtomicBool,
    asked: AtomicUsize,
}

impl Clients {
    pub fn start(n: usize, ask: impl Fn() -> io::Result<()> + Clone + Send + 'static) -> Self {
        let all = Arc::<All>::default();
        let client = |_| {
            let (all, ask) = (Arc::clone(&all), ask.clone());
            std::thread::spawn(move || {
                let mut failed = Vec::new();
                while !all.end.load(Relaxed) {
                    failed.extend(ask().err().map(|error| error.to_string()));
                    all.asked.fetch_add(1, Relaxed);
                }
                failed
            })
        };
        let threads = (0..n).map(client).collect();
        Self { all, threads }
    }

    /// Waits until so many more have asked.
    pub fn go_on(&self, more: usize) {
        let (until, begin) = (self.all.asked.load(Relaxed) + more, Instant::now());
        while self.all.asked.load(Relaxed) < until {
            assert!(begin.elapsed() < PATIENCE, "the clients wait");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many there were; none has failed.
    pub fn end(self) -> usize {
        self.all.end.store(true, Relaxed);
        for thread in self.threads {
            let failed = thread.join().unwrap();
            assert!(failed.is_empty(), "{} lost: {:?}", failed.len(), failed[0]);
        }
        self.all.asked.load(Relaxed)
    }
}
