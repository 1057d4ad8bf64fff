//! Servers in processes of their own, which do what they are told, one line at a time.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]
#![allow(
    unsafe_code,
    reason = "nothing safe sends a signal or changes the user"
)]

use std::io::{self, BufRead, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::engine::{Before, PATIENCE};
use crate::server::Server;
use crate::util;

/// Set for the processes that [`Process`] starts.
const OBEYS: &str = "REUSEPORT_TEST_OBEYS";

/// What the test `server` of each file does: nothing, unless [`Process`] has started it.
pub fn obey() {
    if std::env::var_os(OBEYS).is_none() {
        return;
    }
    let mut server = Server::default();
    let mut line = String::new();
    while io::stdin().read_line(&mut line).is_ok_and(|len| len > 0) {
        let words: Vec<_> = line.split_whitespace().collect();
        server.obey(&words);
        line.clear();
    }
    // The test is over, well or not.
    std::process::exit(0);
}

/// Says one thing, in a line that the harness has no part in.
pub fn say(what: &str) {
    let mut stdout = io::stdout();
    stdout.write_all(format!("\n@{what}\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}

/// A server, killed at the latest when this is dropped.
pub struct Process {
    child: Child,
    said: mpsc::Receiver<String>,
    kept: Vec<String>,
}

/// What a server says of a generation that it has opened.
#[derive(Debug)]
pub struct Opened {
    pub before: Before,
    pub took: Duration,
}

/// What a server says of something that has failed.
#[derive(Debug)]
pub struct Refused {
    /// The error's kind, as `Debug` writes it.
    pub kind: String,
    pub took: Duration,
    pub text: String,
}

impl Process {
    pub fn start() -> Self {
        Self::start_with(|_| ())
    }

    /// One of another user, from its first instruction on.
    pub fn start_as(uid: u32) -> Self {
        use std::os::unix::process::CommandExt;
        Self::start_with(|command| {
            command.uid(uid).gid(uid);
        })
    }

    pub fn start_with(set_up: impl FnOnce(&mut Command)) -> Self {
        // By this name another user finds it too, wherever it is.
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--exact", "server", "--nocapture", "--test-threads=1"])
            .env(OBEYS, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        set_up(&mut command);
        let mut child = util::spawn(&mut command).unwrap();
        let stdout = io::BufReader::new(child.stdout.take().unwrap());
        let (tell, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(said) = line.strip_prefix('@') {
                    if tell.send(said.to_owned()).is_err() {
                        return;
                    }
                }
            }
        });
        Self {
            child,
            said,
            kept: Vec::new(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn tell(&mut self, what: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{what}\n").as_bytes()).unwrap();
    }

    /// What it says after that word, at some time; None where it does not say it in time.
    pub fn hear_within(&mut self, word: &str, patience: Duration) -> Option<String> {
        let after = |said: &str| {
            let (first, rest) = said.split_once(' ').unwrap_or((said, ""));
            (first == word).then(|| rest.to_owned())
        };
        if let Some(at) = self.kept.iter().position(|said| after(said).is_some()) {
            return after(&self.kept.remove(at));
        }
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let said = self.said.recv_timeout(left).ok()?;
            if let Some(rest) = after(&said) {
                return Some(rest);
            }
            self.kept.push(said);
        }
    }

    #[track_caller]
    pub fn hear(&mut self, word: &str) -> String {
        match self.hear_within(word, PATIENCE) {
            Some(rest) => rest,
            None => panic!("it did not say {word:?}, but {:?}", self.kept),
        }
    }

    /// Tells it to do something, and waits until it says that it has.
    #[track_caller]
    pub fn ask(&mut self, what: &str) -> String {
        self.tell(what);
        self.hear(what.split(' ').next().unwrap())
    }

    /// Opens a generation, `what` being its kind, address, number of members and options.
    #[track_caller]
    pub fn open(&mut self, what: &str) -> Result<Opened, Refused> {
        self.tell(&format!("open {what}"));
        self.opened(PATIENCE)
    }

    /// What has become of an opening that it was told to begin.
    #[track_caller]
    pub fn opened(&mut self, patience: Duration) -> Result<Opened, Refused> {
        let Some(said) = self.hear_within("open", patience) else {
            panic!("nothing was opened in {patience:?}: {:?}", self.kept);
        };
        let mut words = said.splitn(3, ' ');
        let mut word = || words.next().unwrap();
        let before = match word() {
            "error" => return Err(refused(word(), word())),
            "nothing" => Before::Nothing,
            "unknown" => Before::Unknown,
            pid => Before::Process(pid.parse().unwrap()),
        };
        let took = Duration::from_millis(word().parse().unwrap());
        Ok(Opened { before, took })
    }

    /// A server that has opened a generation, serves, and has taken over.
    #[track_caller]
    pub fn serving(what: &str, tag: u8) -> Self {
        let mut this = Self::start();
        this.serve(what, tag);
        this
    }

    /// Opens a generation, serves and takes over; nothing is lost.
    #[track_caller]
    pub fn serve(&mut self, what: &str, tag: u8) {
        self.open(what).unwrap();
        self.ask(&format!("serve {tag}"));
        assert_eq!(self.take_over(PATIENCE).unwrap(), 0);
    }

    /// Takes over, and says how many are lost.
    #[track_caller]
    pub fn take_over(&mut self, timeout: Duration) -> Result<u32, Refused> {
        self.tell(&format!("take {}", timeout.as_millis()));
        self.hear("taking");
        self.taken()
    }

    /// What has become of a takeover that has begun.
    #[track_caller]
    pub fn taken(&mut self) -> Result<u32, Refused> {
        let said = self.hear("taken");
        match said.split_once(' ') {
            Some(("error", rest)) => {
                let (kind, rest) = rest.split_once(' ').unwrap();
                Err(refused(kind, rest))
            }
            _ => Ok(said.parse().unwrap()),
        }
    }

    /// In each place of its group the member that stands there.
    #[track_caller]
    pub fn places(&mut self) -> Vec<Option<usize>> {
        let said = self.ask("places");
        let number = |place: &str| place.strip_prefix("Some(")?.strip_suffix(')')?.parse().ok();
        match said.trim_matches(['[', ']']) {
            "" => Vec::new(),
            places => places.split(", ").map(number).collect(),
        }
    }

    /// Whether the next process has relieved it, as far as it has said.
    pub fn is_relieved(&mut self) -> bool {
        let is_relieved = self.hear_within("relieved", Duration::ZERO).is_some();
        if is_relieved {
            self.kept.push("relieved".to_owned());
        }
        is_relieved
    }

    /// Waits until it has been relieved, and its workers have closed their sockets; how many clients
    /// they have served.
    #[track_caller]
    pub fn ends(mut self) -> usize {
        self.relieved()
    }

    /// The same, and it lives on.
    #[track_caller]
    pub fn relieved(&mut self) -> usize {
        self.hear("relieved");
        self.ask("finish").parse().unwrap()
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: it takes two ints, and the child has not been waited for.
        let sent = unsafe { libc::kill(self.pid() as libc::pid_t, signal) };
        assert_eq!(sent, 0, "{}", io::Error::last_os_error());
    }

    /// SIGSTOP; when this returns, it does nothing more.
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP);
        let stat = format!("/proc/{}/stat", self.pid());
        util::until(|| {
            let stat = std::fs::read_to_string(&stat).unwrap();
            stat.rsplit(')')
                .next()?
                .trim()
                .starts_with('T')
                .then_some(())
        });
    }

    /// SIGKILL; when this returns, all that it had is closed.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end, which is no signal's.
    pub fn exits(mut self) {
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), None, "{status}");
    }
}

fn refused(kind: &str, rest: &str) -> Refused {
    let (millis, text) = rest.split_once(' ').unwrap();
    Refused {
        kind: kind.to_owned(),
        took: Duration::from_millis(millis.parse().unwrap()),
        text: text.to_owned(),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
