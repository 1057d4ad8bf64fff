//! The next process: how it is started and waited for, and what this one is told.

use std::io::{self, Read};
use std::os::{fd::AsFd, unix::net::UnixStream};
use std::path::{Path, PathBuf, absolute};
use std::process::{self, ExitStatus};
use std::{env, future::pending, time::Duration};

use futures_util::FutureExt;
use reuseport::Generation;
use rustix::process::{Pid, Signal as Number, kill_process_group};
use sd_notify::NotifyState::{self, MainPid, Ready, Reloading, Status};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::{process::Command, select, task::JoinSet, time};

/// How long a process has until it begins to take over. One that hangs is killed then.
const START: Duration = Duration::from_secs(10);

/// The processes that this one has started.
pub(crate) struct Successors {
    program: PathBuf,
    running: JoinSet<io::Result<()>>,
}

impl Successors {
    pub(crate) fn new() -> io::Result<Self> {
        let (program, running) = (program()?, JoinSet::new());
        Ok(Self { program, running })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    pub(crate) fn start(&mut self, generation: Generation) {
        self.running.spawn(run(self.program.clone(), generation));
    }

    /// Waits until one has ended. An error where the last one has failed and no process serves.
    pub(crate) async fn ended(&mut self) -> io::Result<()> {
        let ended = match self.running.join_next().await {
            Some(ended) => ended?,
            None => pending().await,
        };
        match ended {
            Err(error) if self.running.is_empty() => {
                // This one fails as the main process, so that systemd starts another.
                tell(&[MainPid(process::id())]);
                heard().unwrap_or_else(|error| eprintln!("systemd has not heard: {error}"));
                Err(error)
            }
            Err(error) => {
                eprintln!("{error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

/// The path by which this program was started.
///
/// Not `/proc/self/exe`: that is the file that runs, also when another has replaced it.
fn program() -> io::Result<PathBuf> {
    let name = PathBuf::from(env::args_os().next().unwrap_or_default());
    if name.components().count() > 1 {
        return absolute(name);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found = env::split_paths(&path).map(|dir| dir.join(&name));
    let found = found.find(|program| program.is_file());
    absolute(found.ok_or_else(|| io::Error::other("this program is not in PATH"))?)
}

/// Starts the program again, and waits until that process ends.
///
/// An error where it has failed and this process is relieved already.
async fn run(program: PathBuf, generation: Generation) -> io::Result<()> {
    tell(&[Reloading, NotifyState::monotonic_usec_now()?]);
    let ended = start(&program, &generation).await;
    // Ready at once, where nothing more can come to this process.
    let is_relieved = generation.relieved().now_or_never().is_some();
    let why = match ended {
        Ok(ended) if ended.success() && is_relieved => return Ok(()),
        Ok(ended) => format!("{}: the new process ended: {ended}", program.display()),
        Err(error) => format!("{}: {error}", program.display()),
    };
    if is_relieved {
        return Err(io::Error::other(why));
    }
    eprintln!("{why}");
    tell(&[Ready, Status(&why)]);
    Ok(())
}

async fn start(program: &Path, generation: &Generation) -> io::Result<ExitStatus> {
    let mut child = Command::new(program).args(env::args_os().skip(1)).spawn()?;
    match time::timeout(START, child.wait()).await {
        Err(_) if !generation.farewell().is_ending() => {
            child.kill().await?;
            Err(io::Error::other("the new process was killed: it hung"))
        }
        Err(_) => child.wait().await,
        Ok(ended) => ended,
    }
}

/// What a signal means here.
pub(crate) enum Told {
    Reload,
    End,
}

pub(crate) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    is_ending: bool,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            is_ending: false,
        })
    }

    pub(crate) async fn next(&mut self) -> Told {
        select! {
            Some(()) = self.hangup.recv(), if !self.is_ending => return Told::Reload,
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        self.is_ending = true;
        if process::id() == 1 {
            // To 1 it means all other processes of the container (kill(2)); an error where there is none.
            let _ = kill_process_group(Pid::INIT, Number::TERM);
        }
        Told::End
    }
}

/// Tells systemd, where that has started the program.
pub(crate) fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        eprintln!("cannot tell systemd: {error}");
    }
}

/// Waits until systemd has heard all (sd_notify_barrier(3)): it believes no process that has ended.
fn heard() -> io::Result<()> {
    let (mut here, there) = UnixStream::pair()?;
    here.set_read_timeout(Some(Duration::from_secs(5)))?;
    let barrier = NotifyState::Custom("BARRIER=1");
    sd_notify::notify_with_fds(&[barrier], &[there.as_fd()])?;
    drop(there);
    // It is the end, when systemd has closed its copy.
    here.read(&mut [0]).map(drop)
}
