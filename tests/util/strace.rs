//! The system calls of a piece of a test, as strace counts them.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::util;

/// In the environment of the traced process: the name of its test.
const TRACED: &str = "REUSEPORT_TRACED";

/// No such file: the attempt to open it marks a line of the trace.
const MARK: &str = "/reuseport/mark";

/// Marks the beginning or the end of what is counted.
pub fn mark() {
    assert!(fs::File::open(MARK).is_err(), "{MARK} does not exist");
}

/// The system calls between the two marks of `case`, on its thread, which runs in this same test of
/// a traced process.
///
/// None in that process, and where nothing can be traced.
pub fn calls(test: &str, case: impl FnOnce()) -> Option<Vec<String>> {
    let traces = traces(test, case)?;
    let marked = traces.iter().find(|trace| trace.contains(MARK));
    Some(names(marked?, true))
}

/// The system calls between the two marks of `case`, and those of all threads that it starts.
pub fn all_calls(test: &str, case: impl FnOnce()) -> Option<Vec<String>> {
    let traces = traces(test, case)?;
    // Not those of the thread that has started the process.
    let begun = |trace: &&String| !trace.contains("execve(");
    let names = |trace: &String| names(trace, trace.contains(MARK));
    Some(traces.iter().filter(begun).flat_map(names).collect())
}

fn names(trace: &str, is_marked: bool) -> Vec<String> {
    let calls = trace
        .lines()
        .skip_while(|line| is_marked && !line.contains(MARK))
        .skip(usize::from(is_marked))
        .take_while(|line| !line.contains(MARK))
        .filter_map(|line| Some(line.split_once('(')?.0.to_owned()));
    calls.collect()
}

/// What each thread did of a process in which the case runs.
fn traces(test: &str, case: impl FnOnce()) -> Option<Vec<String>> {
    if std::env::var_os(TRACED).is_some() {
        case();
        return None;
    }
    let traces = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("strace-{}-{test}", std::process::id()));
    fs::create_dir_all(&traces).unwrap();
    // -ff: a file for each thread, in which no line is ever cut in two.
    let mut command = Command::new("strace");
    command
        .args(["-ff", "-o"])
        .arg(traces.join("trace"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(TRACED, test)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Other tests count on a close meanwhile.
    let output = util::spawn(&mut command).and_then(|child| child.wait_with_output());
    let output = match output {
        Ok(output) if output.status.success() => output,
        other => {
            util::skip(&format!("the system calls of {test} ({other:?})"));
            return None;
        }
    };
    let files = fs::read_dir(&traces).unwrap();
    let read = |file: std::io::Result<fs::DirEntry>| fs::read_to_string(file.unwrap().path());
    let texts: Vec<String> = files.map(|file| read(file).unwrap()).collect();
    fs::remove_dir_all(&traces).unwrap();
    let is_marked = texts.iter().any(|trace| trace.contains(MARK));
    assert!(is_marked, "no mark: {output:?}");
    Some(texts)
}
