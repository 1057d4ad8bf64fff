//! A server of short connections, for any runtime.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use reuseport::Net;
use smol::{LocalExecutor, Timer, channel, future};

use crate::util::Runtime;

/// How long open connections have after their member has left.
const PATIENCE: Duration = Duration::from_secs(20);

/// What became of the connections, as the servers see it.
#[derive(Debug, Default)]
pub struct Tally {
    accepted: AtomicUsize,
    answered: AtomicUsize,
    silent: AtomicUsize,
    broken: AtomicUsize,
    unfinished: AtomicUsize,
    accept_errors: AtomicUsize,
}

impl Tally {
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Those whose answer was written, whether it arrived or not.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Those that ended before they had asked.
    pub fn silent(&self) -> usize {
        self.silent.load(Ordering::Relaxed)
    }

    /// Those of which reading or writing failed.
    pub fn broken(&self) -> usize {
        self.broken.load(Ordering::Relaxed)
    }

    /// Members that had connections which did not end.
    pub fn unfinished(&self) -> usize {
        self.unfinished.load(Ordering::Relaxed)
    }

    pub fn accept_errors(&self) -> usize {
        self.accept_errors.load(Ordering::Relaxed)
    }

    fn ended(&self, result: io::Result<bool>) {
        let count = match result {
            Ok(true) => &self.answered,
            Ok(false) => &self.silent,
            Err(_) => &self.broken,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tells a member to stop; one can be told from any thread, and asked in any runtime.
#[derive(Clone, Debug)]
pub struct Stop(channel::Sender<()>, channel::Receiver<()>);

impl Stop {
    pub fn new() -> Self {
        let (sender, receiver) = channel::bounded(1);
        Self(sender, receiver)
    }

    pub fn stop(&self) {
        self.0.close();
    }

    pub fn is_stopped(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until it is.
    pub async fn stopped(&self) {
        // Nothing is ever sent.
        self.1.recv().await.ok();
    }
}

/// Serves a listener until it is to leave, then closes it, and ends its open connections.
///
/// `told` ends the accepting where that waits; where it blocks only an error of accept(2) can, as
/// after shutdown(2) of the listener, and then `left` is asked. After an error it is asked in any
/// runtime. The calling thread accepts; connections do not wait for each other.
pub async fn serve_member<R: Runtime>(
    listener: R::TcpListener,
    told: impl Future<Output = ()>,
    left: impl Fn() -> bool,
    tally: &Arc<Tally>,
) {
    if !R::NONBLOCKING {
        return serve_blocking::<R>(listener, left, tally).await;
    }
    let executor = LocalExecutor::new();
    let mut told = pin!(told);
    let accepting = async {
        loop {
            let stop = async {
                told.as_mut().await;
                None
            };
            let accept = async { Some(R::accept(&listener).await) };
            // Told first: what waits in the queue then is not accepted.
            match future::or(stop, accept).await {
                None => return,
                Some(Ok((stream, _))) => {
                    tally.accepted.fetch_add(1, Ordering::Relaxed);
                    executor
                        .spawn(async { tally.ended(answer::<R>(stream).await) })
                        .detach();
                }
                Some(Err(_)) if left() => return,
                Some(Err(_)) => accept_failed(tally),
            }
        }
    };
    executor.run(accepting).await;
    drop(listener);

    let finish = async {
        while !executor.is_empty() {
            executor.tick().await;
        }
    };
    future::or(finish, async {
        Timer::after(PATIENCE).await;
    })
    .await;
    if !executor.is_empty() {
        tally.unfinished.fetch_add(1, Ordering::Relaxed);
    }
}

/// A thread for each connection, as they would block each other.
async fn serve_blocking<R: Runtime>(
    listener: R::TcpListener,
    left: impl Fn() -> bool,
    tally: &Arc<Tally>,
) {
    let (open, ended) = mpsc::channel::<()>();
    loop {
        match R::accept(&listener).await {
            Ok((stream, _)) => {
                tally.accepted.fetch_add(1, Ordering::Relaxed);
                let (open, tally) = (open.clone(), tally.clone());
                std::thread::Builder::new()
                    .stack_size(128 << 10)
                    .spawn(move || {
                        tally.ended(R::block_on(answer::<R>(stream)));
                        drop(open);
                    })
                    .unwrap();
            }
            Err(_) if left() => break,
            Err(_) => accept_failed(tally),
        }
    }
    drop(listener);
    drop(open);
    if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
        tally.unfinished.fetch_add(1, Ordering::Relaxed);
    }
}

/// None of these errors is the listener's end (accept(2)): descriptors run out, and come back.
fn accept_failed(tally: &Tally) {
    tally.accept_errors.fetch_add(1, Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(1));
}

/// Answers with the same byte, and closes; false where none comes.
async fn answer<R: Net>(stream: R::TcpStream) -> io::Result<bool> {
    let mut byte = [0];
    if R::read(&stream, &mut byte).await? == 0 {
        return Ok(false);
    }
    R::write_all(&stream, &byte).await?;
    Ok(true)
}
