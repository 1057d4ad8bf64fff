//! Users, as this process's user namespace numbers them, and names of processes.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::sys::unix::stat;

/// The user that opened a socket, or that it was given to (fchown(2)); only sockets of one user
/// share a port.
pub(crate) fn owner(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(stat(fd.as_raw_fd())?.st_uid)
}

/// Whether this number may stand for any user of the machine: in a user namespace that does not
/// know all of them, those that it does not know have one number (user_namespaces(7)).
pub(crate) fn is_nobody(uid: u32) -> bool {
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    let map = fs::read_to_string("/proc/thread-self/uid_map").ok();
    stands_for_any(uid, overflow.as_deref(), map.as_deref())
}

/// What cannot be read is taken for the worst.
fn stands_for_any(uid: u32, overflow: Option<&str>, map: Option<&str>) -> bool {
    /// kernel: DEFAULT_OVERFLOWUID.
    const OVERFLOW: u32 = 65_534;
    let overflow = overflow.and_then(|text| text.trim().parse().ok());
    uid == overflow.unwrap_or(OVERFLOW) && !map.is_some_and(is_total)
}

/// Whether a uid_map has every user: all numbers but -1, which is none.
fn is_total(map: &str) -> bool {
    let counts = map.lines().map(|line| {
        let count = line.split_ascii_whitespace().nth(2)?;
        count.parse::<u64>().ok()
    });
    counts.sum::<Option<u64>>() == Some(u32::MAX.into())
}

/// The name of a process, for sentences.
pub(crate) fn process_name(id: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{id}/comm")).ok()?;
    let name = String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned();
    // A process chooses it, and a sentence may go to a terminal.
    let name = name.replace(char::is_control, "\u{fffd}");
    Some(name).filter(|name| !name.is_empty())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::super::testing::{give, skip};
    use super::*;

    #[test]
    fn a_socket_is_of_the_user_it_was_given_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(owner(listener.as_fd()).unwrap(), crate::sys::user());
        match give(listener.as_fd(), 4711) {
            true => assert_eq!(owner(listener.as_fd()).unwrap(), 4711),
            false => skip("another user's socket (it cannot be given away)"),
        }
    }

    #[test]
    fn the_overflow_uid_is_nobody_where_not_all_users_are_known() {
        let total = Some("         0          0 4294967295\n");
        let parts = Some("0 0 1000\n1000 1000 4294966295\n");
        let few = Some("0 100000 65536\n");
        let (usual, other) = (Some("65534\n"), Some("4711\n"));
        for map in [total, parts] {
            assert!(!stands_for_any(65_534, usual, map));
            assert!(!stands_for_any(65_534, None, map));
        }
        for map in [
            few,
            None,
            Some(""),
            Some("what is that"),
            Some("0 0 4294967296\n"),
        ] {
            assert!(stands_for_any(65_534, usual, map), "{map:?}");
            assert!(stands_for_any(65_534, None, map), "{map:?}");
            assert!(stands_for_any(4711, other, map), "{map:?}");
            assert!(!stands_for_any(65_534, other, map), "{map:?}");
            assert!(!stands_for_any(0, usual, map), "{map:?}");
        }
    }

    /// It has no uid_map yet, so that all users have the overflow uid.
    #[test]
    fn a_new_user_namespace_knows_no_user() {
        const TEST: &str = "sys::linux::user::tests::a_new_user_namespace_knows_no_user";
        use rustix::thread::{UnshareFlags, unshare_unsafe};
        use std::os::unix::process::CommandExt;
        if crate::sys::child::role().is_some() {
            assert!(is_nobody(65_534));
            assert!(!is_nobody(0));
            return;
        }
        let here = fs::read_to_string("/proc/self/uid_map").unwrap();
        assert_eq!(is_nobody(65_534), !is_total(&here));
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", TEST, "--nocapture"]);
        command.env("REUSEPORT_TEST_ROLE", "inside");
        // SAFETY: between fork and exec these are system calls alone.
        unsafe {
            command.pre_exec(|| {
                unshare_unsafe(UnshareFlags::NEWUSER)?;
                Ok(())
            });
        }
        match command.output() {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) => skip(&format!("a user namespace ({error})")),
        }
    }

    #[test]
    fn a_process_has_a_name_without_control_characters() {
        let own = process_name(std::process::id()).unwrap();
        assert!(
            std::env::current_exe()
                .unwrap()
                .to_str()
                .unwrap()
                .contains(&own)
        );
        assert_eq!(process_name(u32::MAX), None);
        // A thread's name is in the same place.
        let named = std::thread::Builder::new().name("a\u{1b}[31mb\nc".to_owned());
        let thread = named.spawn(|| {
            // SAFETY: gettid touches no memory.
            process_name(unsafe { libc::gettid() } as u32)
        });
        assert_eq!(
            thread.unwrap().join().unwrap().as_deref(),
            Some("a\u{fffd}[31mb\u{fffd}c")
        );
    }
}
