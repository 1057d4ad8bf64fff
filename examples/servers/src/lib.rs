//! What the servers have in common, and what is no concern of `reuseport`.

pub mod dns;
pub mod grpc;
pub mod h3;
pub mod http;
pub mod ids;
pub mod quic;
pub mod tls;

use std::{env, process, thread};

use reuseport::Generation;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;

/// Where a server listens: its argument.
pub fn addr() -> String {
    let last = env::args().skip(1).last();
    last.unwrap_or_else(|| "localhost:8881".to_owned())
}

/// Where a server listens that has two addresses: its last two arguments.
pub fn two_addrs() -> [String; 2] {
    let args: Vec<_> = env::args().skip(1).collect();
    match args.as_slice() {
        [.., one, other] => [one.clone(), other.clone()],
        _ => ["localhost:8880", "localhost:8443"].map(str::to_owned),
    }
}

/// What it answers.
pub fn who() -> String {
    format!("process {}", process::id())
}

/// SIGTERM ends the server, and no connection is lost.
pub fn stop_on_sigterm(generation: &Generation) {
    let generation = generation.clone();
    let mut signals = Signals::new([SIGTERM]).expect("a handler of SIGTERM");
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            generation.stop();
        }
    });
}
