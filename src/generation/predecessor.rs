//! The process before this one.

use std::fmt;

/// The process that serves until its successor takes over.
///
/// ```no_run
/// # #[cfg(target_os = "linux")] {
/// use reuseport::Options;
///
/// let (_group, generation) = Options::new().generation("localhost:8881", 2)?;
/// match generation.predecessor() {
///     None => println!("this is the first"),
///     Some(predecessor) => println!("beside {predecessor}"),
/// }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    pub(super) pid: Option<u32>,
}

impl Predecessor {
    /// Its number as this process's PID namespace has it; `None` where it is in none that this process
    /// sees, as in another container.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// let pid = generation.predecessor().and_then(|predecessor| predecessor.pid());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }
}

impl fmt::Display for Predecessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("a process whose number is not known here"),
        }
    }
}
