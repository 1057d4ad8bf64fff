//! Starts the library's servers on whichever runtime is asked for.

use std::future::Future;
use std::io;
use std::thread;

use reuseport::{AsyncStd, Net, Smol, Std, Tokio};

/// A runtime of this application.
pub trait Runtime: Net {
    /// Runs a task on the runtime's own threads, and waits for its end.
    fn run(task: impl Future<Output = io::Result<()>> + Send + 'static) -> io::Result<()>;
}

impl Runtime for Std {
    fn run(task: impl Future<Output = io::Result<()>> + Send + 'static) -> io::Result<()> {
        thread::spawn(|| smol::block_on(task)).join().unwrap()
    }
}

impl Runtime for Tokio {
    fn run(task: impl Future<Output = io::Result<()>> + Send + 'static) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async { tokio::spawn(task).await.unwrap() })
    }
}

impl Runtime for AsyncStd {
    fn run(task: impl Future<Output = io::Result<()>> + Send + 'static) -> io::Result<()> {
        async_std::task::block_on(async_std::task::spawn(task))
    }
}

impl Runtime for Smol {
    fn run(task: impl Future<Output = io::Result<()>> + Send + 'static) -> io::Result<()> {
        smol::block_on(smol::spawn(task))
    }
}
