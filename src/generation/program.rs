//! The program that this process runs, to be started once more.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::sys;

/// The program that this process runs: its path, its arguments and its working directory, as they were at first.
///
/// The path is the one by which the program was started (the first argument, argv\[0\]), looked up in `PATH`
/// where it has no slash, and made absolute. So it leads to the new version when the file has been replaced, or
/// a link on the way leads elsewhere. `/proc/self/exe` does not: that is the file that runs, deleted or not.
///
/// Call [`current`](Self::current) at the beginning, before the program changes its working directory, its root
/// or `PATH`.
///
/// On systems other than Unix the path is [`std::env::current_exe`].
///
/// ```no_run
/// # #[cfg(all(target_os = "linux", feature = "tokio"))] {
/// use reuseport::{Program, Serve, Tokio};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let program = Program::current()?;
/// let (listener, generation) = Tokio::serve("[::]:8881")?;
/// // When it is told to, for example by SIGHUP:
/// let successor = generation.restart(program.command()).await?;
/// println!("process {} has taken over", successor.pid());
/// # Ok(())
/// # }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    dir: Option<PathBuf>,
}

impl Program {
    /// Finds the program that this process runs.
    ///
    /// ```
    /// # #[cfg(not(target_os = "wasi"))] {
    /// use reuseport::Program;
    ///
    /// let program = Program::current()?;
    /// println!("{}", program.path().display());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotFound`](std::io::ErrorKind::NotFound) where nothing is at the path, as after a change of the working
    /// directory, and where the process was started under a name that is not its file's, as by `exec -a`. Then
    /// make a [`Command`] of a path that you know. [`Unsupported`](std::io::ErrorKind::Unsupported) on WASI.
    pub fn current() -> Result<Self, Error> {
        let what = "cannot find the program that this process runs";
        Ok(Self {
            path: sys::program().map_err(|error| Error::system(what, error))?,
            args: env::args_os().skip(1).collect(),
            dir: env::current_dir().ok(),
        })
    }

    /// Where the program is, as an absolute path.
    ///
    /// ```
    /// # #[cfg(not(target_os = "wasi"))] {
    /// use reuseport::Program;
    ///
    /// assert!(Program::current()?.path().is_absolute());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that starts the program again, with the arguments that this process was given.
    ///
    /// For [`Generation::restart`](super::Generation::restart). It can be changed: `env`, `arg`, `stdout` and
    /// all the rest. The new process has the environment that this one has when it starts it. It has this one's
    /// standard input, output and error. Its working directory is the one that was current when the program
    /// was [found](Self::current).
    ///
    /// ```
    /// # #[cfg(not(target_os = "wasi"))] {
    /// use reuseport::Program;
    ///
    /// let program = Program::current()?;
    /// let mut command = program.command();
    /// command.env("VERSION", "2");
    /// assert_eq!(command.get_program(), program.path());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args);
        // Where it is the same, it may be deleted by then, which hinders nobody.
        if let (Some(dir), Ok(now)) = (&self.dir, env::current_dir()) {
            if *dir != now {
                command.current_dir(dir);
            }
        }
        command
    }
}
