//! The path by which this process was started, by which the next version of the program is found.

use std::io;
use std::path::PathBuf;

cfg_if::cfg_if! {
    if #[cfg(unix)] {
        use std::env;
        use std::ffi::OsStr;
        use std::fs;
        use std::os::unix::fs::PermissionsExt;
        use std::path::Path;

        /// What execvp(3) searches where there is no PATH.
        const PATH: &str = "/bin:/usr/bin";

        /// The first argument, as a shell, systemd and std pass it.
        ///
        /// Not `/proc/self/exe`: that is the file that runs, also when another stands in its place, or it was
        /// reached through a link that leads to another by now.
        pub(crate) fn program() -> io::Result<PathBuf> {
            let name = env::args_os().next().unwrap_or_default();
            find(&name, env::var_os("PATH").as_deref())
        }

        /// Where execvp(3) finds a program, as an absolute path.
        fn find(name: &OsStr, path: Option<&OsStr>) -> io::Result<PathBuf> {
            if name.is_empty() {
                return Err(refused("it was started without a name".to_owned()));
            }
            if name.as_encoded_bytes().contains(&b'/') {
                let program = std::path::absolute(name)?;
                return match fs::metadata(&program) {
                    Ok(_) => Ok(program),
                    Err(error) => Err(refused(format!("{}: {error}", program.display()))),
                };
            }
            let mut candidates = env::split_paths(path.unwrap_or(OsStr::new(PATH)));
            match candidates.find_map(|dir| Some(dir.join(name)).filter(|path| is_program(path))) {
                Some(program) => std::path::absolute(program),
                None => {
                    let name = Path::new(name).display();
                    Err(refused(format!("it was started as {name}, which no directory of PATH has")))
                }
            }
        }

        fn is_program(path: &Path) -> bool {
            let about = fs::metadata(path);
            about.is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
        }

        fn refused(why: String) -> io::Error {
            io::Error::new(io::ErrorKind::NotFound, why)
        }
    } else {
        /// The file that runs, which stays where it is as long as it does.
        pub(crate) fn program() -> io::Result<PathBuf> {
            std::env::current_exe()
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_as_by_execvp() {
        let here = env::current_dir().unwrap();
        let sh = find(OsStr::new("sh"), Some(OsStr::new("/nowhere:/bin"))).unwrap();
        assert_eq!(sh, Path::new("/bin/sh"));
        assert!(find(OsStr::new("sh"), None).unwrap().is_absolute());
        let own = find(OsStr::new("./src"), None).unwrap();
        assert_eq!(own, here.join("src"));
        // A directory, and a file that is no program.
        for name in ["src", "Cargo.toml"] {
            let error = find(OsStr::new(name), Some(here.as_os_str())).unwrap_err();
            let text = format!("it was started as {name}, which no directory of PATH has");
            assert_eq!(error.to_string(), text);
        }
        let error = find(OsStr::new("gone/server"), None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with('/'), "{error}");
        assert!(find(OsStr::new(""), None).is_err());
    }

    #[test]
    fn this_program_is_found() {
        let found = fs::canonicalize(program().unwrap()).unwrap();
        let runs = fs::canonicalize(env::current_exe().unwrap()).unwrap();
        assert_eq!(found, runs);
    }
}
