//! Tests crates that use this one as anybody would, each with its own workspace and lock file.

#![cfg(unix)]

mod util;

use std::path::Path;
use std::process::Command;

use util::skip;

/// What cargo says of a registry that it cannot reach, or may not.
const OUT_OF_REACH: [&str; 7] = [
    "failed to download",
    "failed to fetch",
    "failed to query replaced source",
    "download of config.json failed",
    "unable to update registry",
    "attempting to make an http request, but --offline was specified",
    "you're using offline mode",
];

/// Does the variable tell about this test, and not what its user wants of cargo?
fn is_of_this_test(variable: &str) -> bool {
    let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
    let names = [
        "CARGO",
        "CARGO_CRATE_NAME",
        "CARGO_PRIMARY_PACKAGE",
        "CARGO_TARGET_TMPDIR",
    ];
    names.contains(&variable) || prefixes.iter().any(|prefix| variable.starts_with(prefix))
}

/// Runs `cargo test` in a crate below `tests/outside`.
fn test(name: &str) {
    let outside = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside");
    let mut cargo = Command::new(env!("CARGO"));
    for (variable, _) in std::env::vars_os() {
        if variable.to_str().is_some_and(is_of_this_test) {
            cargo.env_remove(variable);
        }
    }
    let output = cargo
        .args(["test", "--locked", "--manifest-path"])
        .arg(outside.join(name).join("Cargo.toml"))
        .env(
            "CARGO_TARGET_DIR",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("outside"),
        )
        .env("CARGO_TERM_COLOR", "never")
        .env("CARGO_TERM_QUIET", "false")
        .output();
    let output = match output {
        // These tests were carried to another machine than they were built on.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return skip(&format!("tests/outside/{name} (no cargo: {error})"));
        }
        output => output.unwrap(),
    };
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    if output.status.success() {
        let results = stdout.split("test result: ok. ").skip(1);
        let passed = results.filter_map(|rest| rest.split(' ').next()?.parse::<usize>().ok());
        assert!(passed.sum::<usize>() > 0, "{stdout}");
        let skipped = stderr
            .lines()
            .filter_map(|line| line.strip_prefix("not checked: "));
        skipped.for_each(skip);
        return;
    }

    // cargo downloads everything before it compiles anything.
    let lower = stderr.to_lowercase();
    let reason = OUT_OF_REACH.iter().find(|reason| lower.contains(**reason));
    match reason {
        Some(reason) if !lower.contains("compiling ") && !lower.contains("could not compile") => {
            skip(&format!("tests/outside/{name} (cargo: {reason})"));
        }
        _ => panic!(
            "cargo test in tests/outside/{name}: {}\n{stdout}\n{stderr}",
            output.status
        ),
    }
}

#[test]
fn library() {
    test("library");
}

#[test]
fn application() {
    test("application");
}

#[test]
fn runtimes() {
    test("runtimes");
}
