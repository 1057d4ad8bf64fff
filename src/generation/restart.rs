//! How a server starts its next process, and learns whether that has taken over.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Generation;
use super::attempt::Attempt;
use crate::error::Error;
use crate::group::Key;
use crate::trace;

/// The next process of a server, from its start until it has taken over: the future of [`Generation::restart`].
///
/// Dropping it ends nothing: the process goes on, and is reaped and, if it hangs, killed all the same.
#[must_use = "the restart goes on without it, and its error is in this one"]
pub struct Restart {
    begun: Result<Arc<Attempt>, Error>,
    key: Key,
}

impl Restart {
    /// How long the process may take until it begins to take over: ten seconds unless this is called.
    ///
    /// The time runs while it could begin: not while it waits because this process is itself taking over from
    /// the one before. After [`Duration::MAX`] nothing is killed.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use std::time::Duration;
    /// use reuseport::{Options, Program};
    ///
    /// # async fn restart() -> std::io::Result<()> {
    /// let program = Program::current()?;
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// generation.restart(program.command()).timeout(Duration::from_secs(60)).await?;
    /// # Ok(())
    /// # }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn timeout(self, timeout: Duration) -> Self {
        if let Ok(attempt) = &self.begun {
            attempt.set_timeout(timeout);
        }
        self
    }

    /// Blocks until the process has taken over, or has failed to.
    ///
    /// For another thread than those that accept, which must go on meanwhile.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Options, Program};
    ///
    /// let program = Program::current()?;
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// let successor = generation.restart(program.command()).wait()?;
    /// println!("process {} has taken over", successor.pid());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Generation::restart`].
    pub fn wait(self) -> Result<Successor, Error> {
        let attempt = self.begun.clone()?;
        if !attempt.is_own() {
            return Err(attempt.foreign());
        }
        let pid = attempt.done.wait(|done| done.clone())?;
        Ok(Successor { pid, attempt })
    }
}

impl Future for Restart {
    type Output = Result<Successor, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let attempt = match &self.begun {
            Ok(attempt) if attempt.is_own() => Arc::clone(attempt),
            Ok(attempt) => return Poll::Ready(Err(attempt.foreign())),
            Err(error) => return Poll::Ready(Err(error.clone())),
        };
        let done = attempt
            .done
            .poll(&mut self.key, context, |done| done.clone());
        done.map_ok(|pid| Successor { pid, attempt })
    }
}

impl Drop for Restart {
    fn drop(&mut self) {
        if let Ok(attempt) = &self.begun {
            attempt.done.forget(&self.key);
        }
    }
}

impl fmt::Debug for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Restart").finish_non_exhaustive()
    }
}

/// The process that this one has started, and that has taken over from it.
///
/// Dropping it ends nothing: the process serves, and is reaped as long as this one lives.
#[derive(Clone)]
pub struct Successor {
    pid: u32,
    attempt: Arc<Attempt>,
}

impl Successor {
    /// The number of the process that has taken over, as this process's PID namespace has it.
    ///
    /// It is the child's; or that of a process which the child has started, where the command is a script
    /// or a program like `sudo` that stays above the server.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Options, Program};
    ///
    /// # async fn restart() -> std::io::Result<()> {
    /// let program = Program::current()?;
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// let successor = generation.restart(program.command()).await?;
    /// println!("process {} has taken over", successor.pid());
    /// # Ok(())
    /// # }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A future that is ready when the child has ended, with its status.
    ///
    /// For a process that lives on beside its successor, as the first of a container; and for one that
    /// finishes its connections, and has to tell a supervisor of a successor that has failed.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Options, Program};
    ///
    /// # async fn restart() -> std::io::Result<()> {
    /// let program = Program::current()?;
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// let successor = generation.restart(program.command()).await?;
    /// let status = successor.ended().await?;
    /// println!("process {} has ended: {status}", successor.pid());
    /// # Ok(())
    /// # }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Where another part of the program has reaped the child, as by a waitpid(2) for any child, or the kernel
    /// has, because SIGCHLD is ignored.
    pub fn ended(&self) -> Ended {
        Ended {
            attempt: Arc::clone(&self.attempt),
            key: Key::default(),
        }
    }

    /// As [`ended`](Self::ended), and blocks.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Options, Program};
    ///
    /// let program = Program::current()?;
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// let successor = generation.restart(program.command()).wait()?;
    /// let status = successor.ended_blocking()?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`ended`](Self::ended).
    pub fn ended_blocking(&self) -> Result<ExitStatus, Error> {
        if !self.attempt.is_own() {
            return Err(self.attempt.foreign());
        }
        self.attempt.ended.wait(|ended| ended.clone())
    }
}

impl fmt::Debug for Successor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Successor")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// The future of [`Successor::ended`]. Clones are independent, and dropping one ends nothing.
#[must_use = "futures do nothing unless they are awaited"]
pub struct Ended {
    attempt: Arc<Attempt>,
    key: Key,
}

impl Future for Ended {
    type Output = Result<ExitStatus, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let attempt = Arc::clone(&self.attempt);
        if !attempt.is_own() {
            return Poll::Ready(Err(attempt.foreign()));
        }
        let get = |ended: &mut Option<_>| ended.clone();
        attempt.ended.poll(&mut self.key, context, get)
    }
}

impl Clone for Ended {
    fn clone(&self) -> Self {
        Self {
            attempt: Arc::clone(&self.attempt),
            key: Key::default(),
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.attempt.ended.forget(&self.key);
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").finish_non_exhaustive()
    }
}

impl Generation {
    /// Starts the next process of the server, and waits until it has taken over from this one.
    ///
    /// The process is started at once, on a thread of its own; [`Program`](crate::Program) has the command that
    /// starts the same program again. It has to open its listeners as a generation and to take over, as this one
    /// has. The future is ready with the [`Successor`] when that is done: then [`relieved`](Self::relieved) is
    /// ready too, and this process finishes its connections. It is ready with an error where the process fails;
    /// then this one goes on as if nothing had been, and this can be called again.
    ///
    /// A process that has not begun to take over within ten seconds, or the [timeout](Restart::timeout) that was
    /// set, hangs, and is killed (SIGKILL). It is also killed by [`stop`](Self::stop), if it has not yet begun. One that
    /// has had a [share](Self::take_share) is killed by neither, and may take its time.
    /// One that has begun is never killed. Nor is one that was started by the child, as by a script: it is told to
    /// give up.
    ///
    /// What is begun is carried out, also when the future is dropped, or this generation. The child is reaped in
    /// any case, and no other child of the program is: `SIGCHLD` is left alone. It inherits no descriptor
    /// of this crate. Pipes that the command asks for are closed at once, as nobody would read them: let its
    /// output be inherited, or give it a file.
    ///
    /// A thread waits for the child as long as it lives. The command's `pre_exec` functions run there.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "tokio"))] {
    /// use reuseport::{Program, Serve, Tokio};
    /// use tokio::signal::unix::{SignalKind, signal};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let program = Program::current()?;
    /// let mut hangup = signal(SignalKind::hangup())?;
    /// let (listener, generation) = Tokio::serve("[::]:8881")?;
    /// let restarts = generation.clone();
    /// tokio::spawn(async move {
    ///     while hangup.recv().await.is_some() {
    ///         match restarts.restart(program.command()).await {
    ///             Ok(successor) => println!("process {} has taken over", successor.pid()),
    ///             Err(error) => eprintln!("{error}"),
    ///         }
    ///     }
    /// });
    /// # Ok(())
    /// # }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) off Linux, where a process is not told which one takes over
    /// from it: start the next one by a script there.
    /// What the system answers, where the process, or a thread for it, cannot be started.
    /// [`Other`](std::io::ErrorKind::Other) where it has ended before it had taken over, with its status.
    /// [`TimedOut`](std::io::ErrorKind::TimedOut) where it was killed because it hung.
    /// [`ResourceBusy`](std::io::ErrorKind::ResourceBusy) where another that was started so is still on its way.
    /// [`ConnectionAborted`](std::io::ErrorKind::ConnectionAborted) where this process has been told to
    /// [stop](Self::stop), or serves no more; and where a process takes over that was started elsewhere: then the
    /// one that was started here goes on, and takes over from that.
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where this process has not begun to take over itself.
    pub fn restart(&self, command: Command) -> Restart {
        Restart {
            begun: Attempt::begin(self, command).inspect_err(trace::refused),
            key: Key::default(),
        }
    }

    /// The number of the process that is taking over from this one, or has.
    ///
    /// `None` where there is none, and where it is in no PID namespace that this process sees, as in another
    /// container.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{Serve, Std};
    ///
    /// let (listener, generation) = Std::serve("[::]:8881")?;
    /// generation.relieved_blocking();
    /// println!("process {:?} serves", generation.successor_pid());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn successor_pid(&self) -> Option<u32> {
        self.first().successor().flatten()
    }
}
