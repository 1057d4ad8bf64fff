//! Workers of any kind of socket, which answer short questions.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::io::{self, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use reuseport::{Error, Generation, Group, Options, Socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Asked this, a server answers with its own tag, and else with what it was asked.
pub const WHO: u8 = 255;

/// A kind of socket that workers serve.
pub trait Serve: Socket + Sync + 'static {
    fn open(options: &Options, addr: &str, n: usize) -> Result<(Group<Self>, Generation), Error>;
    fn stop_blocking(&self);
    /// Serves one client; false where there is none.
    fn serve(&self, tag: u8) -> io::Result<bool>;
}

impl Serve for TcpListener {
    fn open(options: &Options, addr: &str, n: usize) -> Result<(Group<Self>, Generation), Error> {
        options.generation(addr, n)
    }
    fn stop_blocking(&self) {
        self.set_nonblocking(true).unwrap();
    }
    fn serve(&self, tag: u8) -> io::Result<bool> {
        let mut stream = match self.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        // A client that says nothing, or has gone, is no fault of this server's.
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut byte = [0];
        // A signal interrupts a read that has a timeout (signal(7)), as setresuid's to each thread.
        if stream.read_exact(&mut byte).is_ok() {
            let answer = if byte[0] == WHO { tag } else { byte[0] };
            let _ = stream.write_all(&[answer]);
        }
        Ok(true)
    }
}

impl Serve for UdpSocket {
    fn open(options: &Options, addr: &str, n: usize) -> Result<(Group<Self>, Generation), Error> {
        options.packet_generation(addr, n)
    }
    fn stop_blocking(&self) {
        self.set_nonblocking(true).unwrap();
    }
    fn serve(&self, tag: u8) -> io::Result<bool> {
        let mut packet = [0; 64];
        match self.recv_from(&mut packet) {
            Ok((len, client)) => {
                let answer = if packet[0] == WHO {
                    &[tag]
                } else {
                    &packet[..len]
                };
                let _ = self.send_to(answer, client);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A worker of one member, which closes it when it is told to stop.
pub struct Worker {
    stop: Arc<AtomicBool>,
    pub served: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Worker {
    pub fn start<S: Serve>(socket: S, tag: u8) -> Self {
        Self::start_until(socket, tag, Arc::default())
    }

    /// Stops also when `over` says so.
    pub fn start_until<S: Serve>(socket: S, tag: u8, over: Arc<AtomicBool>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicUsize::new(0));
        let (stopped, count) = (stop.clone(), served.clone());
        socket.stop_blocking();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) && !over.load(Ordering::SeqCst) {
                match socket.serve(tag) {
                    Ok(true) => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(false) => wait_readable(&socket),
                    // It is out of its group.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                    Err(_) => wait_readable(&socket),
                }
            }
        });
        Self {
            stop,
            served,
            thread,
        }
    }

    /// One that waits in the kernel, and so stops only when its socket is out of its group.
    pub fn start_blocking<S: Serve>(socket: S, tag: u8) -> Self {
        let served = Arc::new(AtomicUsize::new(0));
        let count = served.clone();
        let thread = thread::spawn(move || {
            loop {
                match socket.serve(tag) {
                    Ok(_) => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        Self {
            stop: Arc::default(),
            served,
            thread,
        }
    }

    pub fn end(self) {
        self.stop();
    }

    /// How many it has served.
    pub fn stop(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.served.load(Ordering::Relaxed)
    }
}

/// A little while at the most, after which it may have been told to stop.
fn wait_readable(socket: &impl AsFd) {
    let timeout = Timespec::try_from(Duration::from_millis(2)).unwrap();
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    // A signal ends it too.
    let _ = poll(&mut fds, Some(&timeout));
}
