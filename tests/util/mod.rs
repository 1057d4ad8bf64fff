//! What several test files need: the runtimes behind one trait, namespaces, other users.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]
#![allow(
    unsafe_code,
    reason = "namespaces and users are set for one thread, which no safe API does"
)]

use std::future::Future;

use reuseport::{AsyncStd, Smol, Std, Tokio};

/// Longer than anything takes that does end.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Makes a test of each generic function for each runtime.
#[allow(unused_macros, reason = "no test file uses all of this")]
macro_rules! on_every_runtime {
    ($($body:ident)*) => {
        $(mod $body {
            #[test]
            fn std() {
                super::$body::<reuseport::Std>();
            }

            #[test]
            fn tokio() {
                super::$body::<reuseport::Tokio>();
            }

            #[test]
            fn async_std() {
                super::$body::<reuseport::AsyncStd>();
            }

            #[test]
            fn smol() {
                super::$body::<reuseport::Smol>();
            }
        })*
    };
}

/// A runtime that can run a future to its end on the calling thread.
pub trait Runtime: reuseport::Runtime {
    const NAME: &'static str;
    fn block_on<F: Future>(future: F) -> F::Output;
}

impl Runtime for Std {
    const NAME: &'static str = "std";
    /// std's futures are ready at once; any executor does.
    fn block_on<F: Future>(future: F) -> F::Output {
        smol::block_on(future)
    }
}

impl Runtime for Tokio {
    const NAME: &'static str = "tokio";
    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }
}

impl Runtime for AsyncStd {
    const NAME: &'static str = "async-std";
    fn block_on<F: Future>(future: F) -> F::Output {
        async_std::task::block_on(future)
    }
}

impl Runtime for Smol {
    const NAME: &'static str = "smol";
    fn block_on<F: Future>(future: F) -> F::Output {
        smol::block_on(future)
    }
}

static FORKS: std::sync::RwLock<()> = std::sync::RwLock::new(());

/// Starts a process while nobody counts on a close.
///
/// Between fork and exec the child has a copy of every socket of this process, and a socket that is
/// closed here lives on.
pub fn spawn(command: &mut std::process::Command) -> std::io::Result<std::process::Child> {
    let _forking = FORKS
        .write()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    // It returns after the child has called exec.
    command.spawn()
}

/// As long as this lives no process is started, and a socket that is closed is gone.
pub fn no_forks() -> std::sync::RwLockReadGuard<'static, ()> {
    FORKS
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs the test of that name again in a process of its own, in which [`is_child`] is true.
///
/// For what a process remembers, and for what it cannot take back.
pub fn in_child(test: &str) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env("REUSEPORT_TEST_CHILD", test)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let output = spawn(&mut command).unwrap().wait_with_output().unwrap();
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    // A name that no test has would pass without having run anything.
    let ran = output.status.success() && stdout.contains("1 passed");
    assert!(
        ran,
        "the child of {test}: {}\n{stdout}\n{stderr}",
        output.status
    );
    stderr
        .lines()
        .filter_map(|line| line.strip_prefix(SKIPPED))
        .for_each(skip);
    // What it has measured.
    for line in stdout.lines().filter(|line| line.starts_with("measured: ")) {
        println!("{line}");
    }
}

/// Is this the process that [`in_child`] started?
pub fn is_child(test: &str) -> bool {
    std::env::var("REUSEPORT_TEST_CHILD").is_ok_and(|name| name == test)
}

/// The address of any runtime's socket.
#[cfg(unix)]
pub fn addr_of(socket: &impl std::os::fd::AsFd) -> std::net::SocketAddr {
    reuseport::local_addr(socket).unwrap()
}

/// Asks until there is an answer.
///
/// On loopback too a packet can arrive after the call that sent it, when its processor is busy.
#[track_caller]
pub fn until<T>(ask: impl FnMut() -> Option<T>) -> T {
    until_sent(|| (), ask).0
}

/// Sends, and asks until there is an answer; tells how often it had to send.
///
/// On loopback too a datagram can be lost: a processor that is behind drops what is past
/// net.core.netdev_max_backlog.
#[track_caller]
pub fn until_sent<T>(mut send: impl FnMut(), mut ask: impl FnMut() -> Option<T>) -> (T, usize) {
    use std::time::{Duration, Instant};
    for sent in 1..=20 {
        send();
        let again = Instant::now() + Duration::from_secs(1);
        while Instant::now() < again {
            if let Some(answer) = ask() {
                return (answer, sent);
            }
            std::thread::yield_now();
        }
    }
    panic!("no answer in 20 seconds");
}

/// Sends a datagram, and again each second until what this returns is dropped: see [`until_sent`].
#[must_use]
pub fn keep_sending(
    socket: &std::net::UdpSocket,
    payload: &'static [u8],
    to: std::net::SocketAddr,
) -> impl Drop + use<> {
    use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
    struct Sending(Option<(Sender<()>, std::thread::JoinHandle<()>)>);
    impl Drop for Sending {
        fn drop(&mut self) {
            if let Some((stop, thread)) = self.0.take() {
                drop(stop);
                thread.join().unwrap();
            }
        }
    }
    let socket = socket.try_clone().unwrap();
    let (stop, stopped) = channel();
    let thread = std::thread::spawn(move || {
        loop {
            socket.send_to(payload, to).unwrap();
            if stopped.recv_timeout(std::time::Duration::from_secs(1))
                != Err(RecvTimeoutError::Timeout)
            {
                return;
            }
        }
    });
    Sending(Some((stop, thread)))
}

/// Nothing was left when a member had left, or a process had been replaced.
#[track_caller]
pub fn assert_drained(drained: Result<reuseport::Drained, reuseport::Error>) {
    assert_eq!(drained.unwrap(), reuseport::Drained::default());
}

const SKIPPED: &str = "not checked: ";

/// Says in one line what was not checked, and why.
pub fn skip(what: &str) {
    use std::io::Write;
    // Not `println!`, which the harness keeps for itself; in one piece, as other tests write too.
    let line = format!("{SKIPPED}{what}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Runs `f` on a thread of its own, and hands a panic on.
pub fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(f).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Runs `f` in a network namespace of its own, with only a loopback interface; None where that is
/// not allowed.
///
/// Threads and processes that `f` starts are in the namespace too.
#[cfg(target_os = "linux")]
pub fn in_namespace<T: Send>(what: &str, f: impl FnOnce() -> T + Send) -> Option<T> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    on_thread(|| {
        // SAFETY: only this thread's view of the network changes, and no flag touches memory or
        // descriptors.
        if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
            skip(&format!(
                "{what} (no network namespace of its own: {error})"
            ));
            return None;
        }
        loopback_up();
        Some(f())
    })
}

#[cfg(target_os = "linux")]
fn loopback_up() {
    use std::os::fd::AsRawFd;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: an ifreq is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which `request` is.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    assert_eq!(
        result,
        0,
        "lo is set up: {}",
        std::io::Error::last_os_error()
    );
}

/// Runs `f` on a thread that is that user, without any privilege; None where that is not allowed.
#[cfg(target_os = "linux")]
pub fn as_user<T: Send>(uid: u32, what: &str, f: impl FnOnce() -> T + Send) -> Option<T> {
    use rustix::process::Uid;
    on_thread(|| {
        let uid = Uid::from_raw(uid);
        // The system call itself, which acts on one thread; libc's setresuid acts on all.
        match rustix::thread::set_thread_res_uid(uid, uid, uid) {
            Ok(()) => Some(f()),
            Err(error) => {
                skip(&format!("{what} (cannot act as another user: {error})"));
                None
            }
        }
    })
}

/// Asks a socket for an option, as only another program would.
#[cfg(unix)]
pub fn has_option(fd: &impl std::os::fd::AsFd, level: i32, name: i32) -> bool {
    int_option(fd, level, name) != 0
}

/// The value of an option that is an int.
#[cfg(unix)]
pub fn int_option(fd: &impl std::os::fd::AsFd, level: i32, name: i32) -> i32 {
    use std::os::fd::AsRawFd;
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `value`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &mut len,
        )
    };
    assert_eq!(result, 0, "getsockopt: {}", std::io::Error::last_os_error());
    value
}

/// How many descriptors this process has.
#[cfg(target_os = "linux")]
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#[path = "../../src/sys/linux/answer.rs"]
mod answer;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub use answer::answer;

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
/// The same for setsockopt(2) of an option of SOL_SOCKET.
pub fn answer_option(option: libc::c_int, errno: libc::c_int) {
    answer(
        libc::SYS_setsockopt,
        &[(1, libc::SOL_SOCKET), (2, option)],
        errno,
    );
}

/// The crate's own part of a sentence. What the system says of an error differs between C libraries.
pub fn ours(error: &reuseport::Error) -> String {
    let text = error.to_string();
    let system = match error.io_error().raw_os_error() {
        Some(_) => format!(": {}", error.io_error()),
        None => String::new(),
    };
    match text.strip_suffix(&system) {
        Some(ours) => ours.to_owned(),
        None => panic!("{text:?} does not end with {system:?}"),
    }
}

/// A process of the name "sh" that has a descriptor of a socket until this is dropped.
#[cfg(unix)]
pub struct Keeper(std::process::Child);

#[cfg(unix)]
impl Keeper {
    pub fn new(socket: impl Into<std::os::fd::OwnedFd>) -> Self {
        use std::io::BufRead;
        use std::process::Stdio;
        // The socket is its standard error; it ends when its standard input does.
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", "echo ready; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(socket.into());
        let mut child = spawn(&mut command).unwrap();
        // This process has its own copy of the socket as long as the command lives.
        drop(command);
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        std::io::BufReader::new(stdout)
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

#[cfg(unix)]
impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
