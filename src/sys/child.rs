//! Tests in processes of their own: for limits and counts, which belong to a process.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

const ROLE: &str = "REUSEPORT_TEST_ROLE";

/// What this process is to do in the test, if it is one of a test's own.
pub(super) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A process that runs only this test, in this role.
pub(super) struct Child(std::process::Child);

impl Child {
    /// `stdin` is what the child has as descriptor 0.
    pub(super) fn start(test: &str, role: &str, stdin: Option<OwnedFd>) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                test,
                "--nocapture",
                "--include-ignored",
                "--test-threads=1",
            ])
            .env(ROLE, role)
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    #[track_caller]
    pub(super) fn passes(self) {
        let output = self.0.wait_with_output().unwrap();
        let [stdout, stderr] =
            [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        // A name that no test has would pass without having run anything.
        let ran = output.status.success() && stdout.contains("1 passed");
        assert!(ran, "{}\n{stdout}\n{stderr}", output.status);
        for line in stderr.lines() {
            if ["not checked: ", "measured: "]
                .iter()
                .any(|what| line.starts_with(what))
            {
                let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
            }
        }
    }
}

/// Runs `test` in a process of its own, in which [`alone`] runs `f`.
#[track_caller]
pub(super) fn alone(test: &str, f: impl FnOnce()) {
    match role() {
        Some(_) => f(),
        None => Child::start(test, "alone", None).passes(),
    }
}
