//! A new version that is tried with few clients before it takes over: `cargo run --example canary`
//!
//! Start it again in another terminal, while `cargo run --example load` asks it in a third: the new process gets
//! 1 %, 10 % and 50 % of the connections, a second each, and takes over. One that fails its own check gives its part
//! back and ends, and no client is reset: `cargo run --example canary -- localhost:8881 unfit`. Elsewhere than on
//! Linux, where processes cannot be given a part, it takes over at once.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::{env, error::Error, io::ErrorKind, process, time::Duration};

use axum::{Router, routing::get};
use reuseport::{Generation, Serve, Tokio};

/// What the version knows of itself.
#[derive(Default)]
struct Health {
    answers: AtomicUsize,
    failures: AtomicUsize,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (me, args) = (process::id(), env::args().collect::<Vec<_>>());
    let addr = args.get(1).map_or("localhost:8881", String::as_str);
    let is_unfit = args.get(2).is_some_and(|how| how == "unfit");
    let (listener, generation) = Tokio::serve(addr)?;
    let addr = listener.local_addr()?;

    let health = Arc::new(Health::default());
    let counts = health.clone();
    let answer = move || async move {
        counts.answers.fetch_add(1, Relaxed);
        // What is wrong with it is what it would count: errors, slow answers, calls that were refused.
        counts.failures.fetch_add(is_unfit.into(), Relaxed);
        format!("process {me}\n")
    };
    let app = Router::new().route("/", get(answer));

    println!("process {me} listens on {addr}");
    let (canary, failure) = (generation.clone(), Arc::new(OnceLock::new()));
    let why = failure.clone();
    let ends = async move {
        if let Err(error) = try_out(&canary, &health).await {
            let _ = why.set(error.to_string());
            canary.stop();
        }
        canary.shutdown().await;
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(ends)
        .await?;
    match failure.get() {
        Some(why) => Err(format!("process {me} gave its part back: {why}").into()),
        None => Ok(generation.outcome().map(drop)?),
    }
}

/// Takes over in steps; an error where this version is unfit.
async fn try_out(generation: &Generation, health: &Health) -> Result<(), Box<dyn Error>> {
    for part in [0.01, 0.1, 0.5] {
        match generation.take_share(part).await {
            // All, where no other process serves, or it has ended meanwhile.
            Ok(1.0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Unsupported => break,
            Err(error) => return Err(error.into()),
        }
        println!(
            "process {} has {} % of the connections",
            process::id(),
            100.0 * part
        );
        // Or until it is told to end.
        let _ = tokio::time::timeout(Duration::from_secs(1), generation.relieved()).await;
        let (answers, failures) = (health.answers.load(Relaxed), health.failures.load(Relaxed));
        if failures > 0 {
            return Err(format!("{failures} of {answers} requests have failed").into());
        }
    }
    // A handshake with a client that has vanished ends after 63 seconds.
    let drained = generation.take_over(Duration::from_secs(64)).await?;
    println!(
        "process {} has taken over: {} connections lost",
        process::id(),
        drained.unaccepted
    );
    Ok(())
}
