//! What the compiler says to the author of a library, or to its user, where something is missing.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Checks a crate of these lines, and returns what the compiler says.
fn compile(name: &str, features: &str, source: &str) -> String {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(dir.join("src")).unwrap();
    let crate_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let manifest = format!(
        "[workspace]\n[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[dependencies]\n\
         reuseport = {{ path = {:?}, default-features = false, features = [{features}] }}\n",
        crate_path.canonicalize().unwrap()
    );
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    fs::write(dir.join("src/lib.rs"), source).unwrap();
    // The versions that this package is built with are there already.
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock"),
        dir.join("Cargo.lock"),
    )
    .unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--color=never", "--manifest-path"])
        .arg(dir.join("Cargo.toml"))
        .env(
            "CARGO_TARGET_DIR",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("messages"),
        )
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.success(), !said.contains("error"), "{said}");
    said
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
}

#[test]
fn a_feature_is_missing() {
    let said = compile("feature", "", "pub use reuseport::Smol;");
    assert_says(
        &said,
        &[
            "no `Smol` in the root",
            "the item is gated behind the `smol` feature",
        ],
    );
}

#[test]
fn a_bound_is_not_met() {
    let source =
        "pub struct Mine;\npub fn f() { serve::<Mine>(); }\nfn serve<R: reuseport::Runtime>() {}";
    let said = compile("bound", "", source);
    assert_says(
        &said,
        &[
            "`Mine` has no tasks and no clock for libraries that are generic over the runtime",
            "`reuseport::Std`, `Tokio`, `AsyncStd` and `Smol` have, each behind the feature of its name",
        ],
    );
    let source = "pub fn f() { let _ = <u8 as reuseport::ReusePort>::listen(\":1\"); }";
    let said = compile("runtime", "", source);
    assert_says(
        &said,
        &["`u8` is no runtime whose sockets can share a port"],
    );
}

#[test]
fn what_is_right_compiles() {
    let source =
        "pub async fn f<R: reuseport::Runtime>() { R::sleep(std::time::Duration::ZERO).await }";
    compile("right", "\"std\"", source);
}
