//! Workers in processes of their own, each with a member of the test's group and the load of that member.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reuseport::{Held, Load, Member};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::util;

/// Set for the processes that [`Hand`] starts.
const WORKS: &str = "REUSEPORT_TEST_WORKS";

/// A worker that is a process: it answers each connection with the byte that it sends.
///
/// The process is killed at the latest when this is dropped.
pub struct Hand {
    child: Child,
    control: UnixStream,
}

impl Hand {
    /// Returns when it serves. The test that calls [`work`] must have that name.
    pub fn start(listener: &impl AsFd, load: OwnedFd) -> Self {
        let (control, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "hand", "--nocapture"])
            .env(WORKS, "1")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = util::spawn(&mut command).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let fds = [listener.as_fd(), load.as_fd()];
        assert!(beside.push(SendAncillaryMessage::ScmRights(&fds)));
        let sent = sendmsg(
            &control,
            &[IoSlice::new(b"+")],
            &mut beside,
            SendFlags::empty(),
        );
        assert_eq!(sent, Ok(1));
        let this = Self { child, control };
        this.hear();
        this
    }

    fn hear(&self) -> u64 {
        let mut answer = [0; 8];
        (&self.control).read_exact(&mut answer).unwrap();
        u64::from_le_bytes(answer)
    }

    fn ask(&self, what: u8, number: u64) -> u64 {
        let mut order = [0; 9];
        order[0] = what;
        order[1..].copy_from_slice(&number.to_le_bytes());
        (&self.control).write_all(&order).unwrap();
        self.hear()
    }

    /// How many connections it has accepted.
    pub fn served(&self) -> usize {
        self.ask(b's', 0) as usize
    }

    pub fn set(&self, load: usize) {
        self.ask(b'l', load as u64);
    }

    /// From here on it holds each connection for ever, and answers none.
    pub fn keep(&self) {
        self.ask(b'k', 0);
    }

    /// From here on it writes anything into its load, all the time.
    pub fn scribble(&self) {
        self.ask(b'w', 0);
    }

    /// What the system answers when it makes its load shorter.
    pub fn cut(&self) -> i32 {
        self.ask(b'c', 0) as i32
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Worker {
    listener: TcpListener,
    load: Load,
    memory: File,
    served: u64,
    keeps: bool,
    kept: Vec<(std::net::TcpStream, Held)>,
}

/// What the test `hand` of each file does: nothing, unless [`Hand`] has started it.
pub fn work() {
    if std::env::var_os(WORKS).is_none() {
        return;
    }
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let [listener, memory] = take(&control);
    let listener = Member::<TcpListener>::adopt(listener).unwrap().into_std();
    listener.set_nonblocking(true).unwrap();
    let mut worker = Worker {
        listener,
        load: Load::adopt(memory.try_clone().unwrap()).unwrap(),
        memory: memory.into(),
        served: 0,
        keeps: false,
        kept: Vec::new(),
    };
    (&control).write_all(&[0; 8]).unwrap();
    let timeout = Timespec::try_from(Duration::from_secs(1)).unwrap();
    loop {
        let mut ready = [
            PollFd::new(&control, PollFlags::IN),
            PollFd::new(&worker.listener, PollFlags::IN),
        ];
        let _ = poll(&mut ready, Some(&timeout));
        let is_told = !ready[0].revents().is_empty();
        if is_told {
            let mut order = [0; 9];
            if (&control).read_exact(&mut order).is_err() {
                // The test is over, well or not.
                std::process::exit(0);
            }
            let number = u64::from_le_bytes(order[1..].try_into().unwrap());
            let answer = worker.obey(order[0], number);
            (&control).write_all(&answer.to_le_bytes()).unwrap();
        }
        while let Ok(true) = worker.answer() {}
    }
}

fn take(control: &UnixStream) -> [OwnedFd; 2] {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(
        control,
        &mut [IoSliceMut::new(&mut byte)],
        &mut beside,
        flags,
    )
    .unwrap();
    let mut came = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            came.extend(fds);
        }
    }
    came.try_into().unwrap()
}

impl Worker {
    fn obey(&mut self, what: u8, number: u64) -> u64 {
        match what {
            b's' => return self.served,
            b'l' => self.load.set(number as usize),
            b'k' => self.keeps = true,
            b'w' => {
                let memory = self.memory.try_clone().unwrap();
                let length = memory.metadata().unwrap().len() as usize;
                // The same numbers each time, and now and then all ones.
                let mut number = 1u64;
                std::thread::spawn(move || {
                    loop {
                        number = number
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1);
                        let byte = if number >> 62 == 0 {
                            0xff
                        } else {
                            (number >> 33) as u8
                        };
                        memory.write_all_at(&vec![byte; length], 0).unwrap();
                        // Some ten times within a step, and not all that a processor can.
                        std::thread::sleep(Duration::from_micros(100));
                    }
                });
            }
            b'c' => {
                let cut = self.memory.set_len(0).unwrap_err();
                return cut.raw_os_error().unwrap() as u64;
            }
            other => panic!("{other}"),
        }
        0
    }

    /// False where no thread waits.
    fn answer(&mut self) -> io::Result<bool> {
        let mut stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let held = self.load.hold();
        self.served += 1;
        if self.keeps {
            self.kept.push((stream, held));
            return Ok(true);
        }
        stream.set_nonblocking(false)?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
        Ok(true)
    }
}
