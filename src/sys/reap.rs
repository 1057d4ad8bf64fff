//! Children of this process, and who is whose child.

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
        use std::fs;
        use std::io;
        use std::mem;

        use super::unix::check;

        /// Waits until a child of this process has ended, and does not reap it: its number stays its own.
        ///
        /// Fails where it has been reaped by another part of the program, or by the kernel, which does that
        /// where SIGCHLD is ignored (waitid(2)).
        pub(crate) fn wait(pid: u32) -> io::Result<()> {
            loop {
                let mut about = mem::MaybeUninit::<libc::siginfo_t>::zeroed();
                let how = libc::WEXITED | libc::WNOWAIT;
                // SAFETY: the pointer is to room for one siginfo_t, which the kernel fills.
                let waited = unsafe {
                    libc::waitid(libc::P_PID, pid as libc::id_t, about.as_mut_ptr(), how)
                };
                match check(waited) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    waited => return waited.map(drop),
                }
            }
        }

        /// Whether a process was started by the other, or by one that this has started, and so on.
        pub(crate) fn descends(pid: u32, ancestor: u32) -> bool {
            /// Numbers are used again: what is read while that happens could lead round in a circle.
            const MOST: usize = 64;
            let ancestors = std::iter::successors(parent(pid), |pid| parent(*pid));
            ancestors.take(MOST).any(|pid| pid == ancestor)
        }

        /// The fourth field of proc_pid_stat(5), behind a name that may have anything in it.
        fn parent(pid: u32) -> Option<u32> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (_, fields) = stat.rsplit_once(')')?;
            let parent = fields.split_ascii_whitespace().nth(1)?.parse().ok()?;
            Some(parent).filter(|parent| *parent != 0)
        }
    } else {
        use std::io;

        pub(crate) fn wait(_: u32) -> io::Result<()> {
            Err(super::unsupported("this system has no generations"))
        }

        pub(crate) fn descends(_: u32, _: u32) -> bool {
            false
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Command, Stdio, id};

    use super::*;

    #[test]
    fn a_child_is_waited_for_and_left() {
        let mut child = Command::new("true").spawn().unwrap();
        wait(child.id()).unwrap();
        wait(child.id()).unwrap();
        assert!(child.wait().unwrap().success());
        let error = wait(child.id()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn descent_is_known() {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        assert!(descends(child.id(), id()));
        assert!(!descends(id(), child.id()));
        assert!(!descends(child.id(), child.id()));
        child.stdin = None;
        child.wait().unwrap();
        assert!(!descends(child.id(), id()));
    }
}
