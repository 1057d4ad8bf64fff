//! Each server is replaced under load and then stopped, and every request is answered.
//!
//! The short form runs with all tests. The long one replaces each server ten times, counts at least 5,000
//! requests of each kind, and does the same to the server as its framework's introduction has it, which loses:
//! `cargo test --release -- --ignored --nocapture`. `FRAMEWORKS=axum,quinn` chooses some.

#![cfg(target_os = "linux")]

mod client;
mod dns;
mod form;
mod grpc;
mod http;
mod loss;
mod quic;
mod run;
mod server;
mod site;
mod table;
mod tally;

use std::env;

use form::{Form, Protocol};
use run::{replaced, replaced_naively};
use table::Table;

/// Each server, and what its clients speak.
const FRAMEWORKS: [(&str, &str, Protocol); 11] = [
    ("axum", env!("CARGO_BIN_EXE_axum"), Protocol::Http),
    ("hyper", env!("CARGO_BIN_EXE_hyper"), Protocol::Http),
    ("actix", env!("CARGO_BIN_EXE_actix"), Protocol::Http),
    ("poem", env!("CARGO_BIN_EXE_poem"), Protocol::Http),
    ("smol", env!("CARGO_BIN_EXE_smol"), Protocol::Http),
    ("async_std", env!("CARGO_BIN_EXE_async_std"), Protocol::Http),
    ("monoio", env!("CARGO_BIN_EXE_monoio"), Protocol::Http),
    ("compio", env!("CARGO_BIN_EXE_compio"), Protocol::Http),
    ("tonic", env!("CARGO_BIN_EXE_tonic"), Protocol::Grpc),
    ("quinn", env!("CARGO_BIN_EXE_quinn"), Protocol::Quic),
    ("hickory", env!("CARGO_BIN_EXE_hickory"), Protocol::Dns),
];

#[track_caller]
fn short(name: &str) {
    let at = FRAMEWORKS.iter().position(|(each, ..)| *each == name);
    let index = at.expect("a framework of the list");
    let (name, program, protocol) = FRAMEWORKS[index];
    let counts = replaced(index, name, program, protocol, &Form::SHORT);
    let mut table = Table::new();
    table.add(name, protocol, &counts, None);
    table.check(Form::SHORT.answers);
}

macro_rules! short {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                short(stringify!($name));
            }
        )*
    };
}

short!(axum hyper actix poem smol async_std monoio compio tonic quinn hickory);

#[test]
#[ignore = "takes a quarter of an hour"]
fn ten_times() {
    let only = env::var("FRAMEWORKS").ok();
    let is_meant = |name| {
        let only = only.as_deref();
        only.is_none_or(|only| only.split(',').any(|each| each == name))
    };
    let mut table = Table::new();
    for (index, (name, program, protocol)) in FRAMEWORKS.into_iter().enumerate() {
        if is_meant(name) {
            let counts = replaced(index, name, program, protocol, &Form::LONG);
            let naive = replaced_naively(index, name, protocol, &Form::LONG);
            table.add(name, protocol, &counts, Some(&naive));
        }
    }
    println!("{table}");
    table.check(5_000);
}
