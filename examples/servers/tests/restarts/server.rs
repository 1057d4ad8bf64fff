//! A process of a server.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::run::PATIENCE;

/// A process that is killed where its test fails.
pub(crate) struct Server {
    child: Child,
    /// Says when it has ended.
    ended: mpsc::Receiver<()>,
}

impl Server {
    pub(crate) fn start(program: &str, name: Option<&str>, addr: SocketAddr) -> Self {
        let mut child = Command::new(program)
            .args(name)
            .arg(addr.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (done, ended) = mpsc::channel();
        let mut stdout = child.stdout.take().unwrap();
        thread::spawn(move || {
            let _ = stdout.read_to_end(&mut Vec::new());
            let _ = done.send(());
        });
        Self { child, ended }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> ExitStatus {
        let ended = self.ended.recv_timeout(PATIENCE);
        ended.expect("the process does not end");
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Errors where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
