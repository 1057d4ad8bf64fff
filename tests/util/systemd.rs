//! A systemd of the test's own: PID 1 of its own PID namespace, with its own /run, /tmp and cgroups.

#![allow(unreachable_pub, reason = "a module of many crates")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, process, thread};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::util::{self, PATIENCE, skip};

/// What is run in the new namespaces.
///
/// The file system is read-only, and what systemd writes to and empties is the test's. Without a console
/// it says nothing.
const BOOT: &str = r#"set -e
mount -o remount,bind,ro /
for dir in /run /tmp /var/tmp; do mount -t tmpfs tmpfs $dir; done
mount -t proc proc /proc
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/systemd/system /run/lock /run/test
printf '[Unit]\nDefaultDependencies=no\n' >/run/systemd/system/test.target
: >/run/test/is-there
exec "$SYSTEMD" --system --unit=test.target --log-target=null --show-status=no"#;

/// A running systemd, killed when this is dropped with all that it has started.
pub struct Systemd {
    /// unshare(1), whose child is systemd. That dies with it.
    child: Child,
    cgroup: PathBuf,
}

impl Systemd {
    /// None where there is no systemd, or it cannot be run; then it is said that `what` is not checked.
    pub fn start(what: &str) -> Option<Self> {
        Self::try_start()
            .inspect_err(|why| skip(&format!("{what} ({why})")))
            .ok()
    }

    fn try_start() -> Result<Self, String> {
        if !geteuid().is_root() {
            return Err("a systemd of the test's own needs root".to_owned());
        }
        let systemd = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
        let systemd = systemd.iter().find(|path| Path::new(path).exists());
        let systemd = systemd.ok_or("there is no systemd")?;
        let parent = own_cgroup().ok_or("there are no cgroups of version 2")?;
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = parent.join(format!("reuseport-test-{}-{number}", process::id()));
        let failed = |error: io::Error| format!("{}: {error}", cgroup.display());
        fs::create_dir(&cgroup).map_err(failed)?;
        let mut command = Command::new("sh");
        command
            // It dies with the thread that has started it.
            .args([
                "-c",
                "echo $$ >\"$0\"/cgroup.procs && exec setpriv --pdeathsig KILL unshare \
                --fork --kill-child --pid --mount --ipc --uts --cgroup --propagation private \
                sh -c \"$BOOT\"",
            ])
            .arg(&cgroup)
            .envs([("BOOT", BOOT), ("SYSTEMD", systemd), ("container", "test")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = util::spawn(&mut command).map_err(|error| error.to_string())?;
        let mut this = Self { child, cgroup };
        // Before this is there, its namespaces are the machine's.
        let is_there = this.path("/run/test/is-there");
        let ended = wait_for(|| {
            let ended = this.child.try_wait().unwrap();
            (ended.is_some() || is_there.exists()).then_some(ended)
        });
        if ended.is_some() {
            let stderr = io::read_to_string(this.child.stderr.take().unwrap()).unwrap();
            return Err(stderr.lines().next().unwrap_or("it ends").to_owned());
        }
        let answers = || this.ctl(&["show", "--property=Version"]).ok();
        wait_within(PATIENCE, answers).ok_or("systemctl has no answer")?;
        Ok(this)
    }

    /// Where a path of its file system is in that of the test.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.child.id()))
    }

    /// Runs systemctl; what it says.
    pub fn ctl(&self, args: &[&str]) -> Result<String, String> {
        let namespaces = format!("/proc/{}/ns", self.child.id());
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount={namespaces}/mnt"))
            .arg(format!("--pid={namespaces}/pid_for_children"))
            .arg("systemctl")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = util::spawn(&mut command).map_err(|error| error.to_string())?;
        // What it says fits into a pipe.
        if wait_within(PATIENCE, || child.try_wait().unwrap()).is_none() {
            let _ = child.kill();
        }
        let output = child.wait_with_output().unwrap();
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        match output.status.success() {
            true => Ok(stdout),
            false => Err(format!("systemctl {args:?}: {}: {stderr}", output.status)),
        }
    }

    /// A property of a unit.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        let value = self.ctl(&["show", "--value", "--property", name, unit]);
        value.unwrap().trim_end().to_owned()
    }

    /// Its version, as 252.
    pub fn version(&self) -> u32 {
        let version = self
            .ctl(&["show", "--value", "--property=Version"])
            .unwrap();
        let digits = version.split(|c: char| !c.is_ascii_digit()).next();
        digits
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_default()
    }

    /// The processes that have ended and that no other has waited for.
    pub fn zombies(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("/proc")).unwrap();
        let stats = entries.filter_map(|entry| {
            // It may end at any time.
            fs::read_to_string(entry.ok()?.path().join("stat")).ok()
        });
        stats.filter(|stat| stat.contains(") Z ")).collect()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let pid = self.child.id();
        // Systemd itself, so that unshare(1) waits for it, and ends.
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let systemd = children
            .ok()
            .and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
        let killed = systemd.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok());
        let ended = || self.child.try_wait().ok().flatten();
        if !killed || wait_within(PATIENCE, ended).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // Its processes die a moment later.
        wait_within(PATIENCE, || remove(&self.cgroup).ok());
    }
}

/// The processes that a process has started.
pub fn children(pid: u32) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let lists = threads.filter_map(|thread| {
        // One may end at any time.
        fs::read_to_string(thread.ok()?.path().join("children")).ok()
    });
    let all = lists.collect::<String>();
    let pids = all.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter_map(Pid::from_raw).collect()
}

/// The directory of this process's cgroup of version 2.
fn own_cgroup() -> Option<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let mount = mounts.find_map(|mut mount| {
        let place = mount.nth(1)?;
        (mount.next()? == "cgroup2").then_some(place)
    });
    Some(Path::new(mount?).join(own))
}

/// Removes a cgroup and those below it.
fn remove(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Asks until there is an answer.
#[track_caller]
pub fn wait_for<T>(ask: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, ask).unwrap_or_else(|| panic!("no answer in {PATIENCE:?}"))
}

fn wait_within<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + patience;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= until {
            return answer;
        }
        // What is waited for needs the processor.
        thread::sleep(Duration::from_millis(2));
    }
}
