//! The first example under load, asked by a client of HTTP that is not this crate's.

#![cfg(unix)]

#[path = "../../tests/util/programs.rs"]
mod programs;
#[path = "../../tests/util/mod.rs"]
mod util;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use programs::{Process, pid, serve, spreads};
use util::PATIENCE;

/// An HTTP client that opens a connection for each request.
fn client() -> ureq::Agent {
    ureq::Agent::config_builder()
        .max_idle_connections(0)
        .proxy(None)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

/// Makes `n` requests from four threads, and counts which process answered how many.
fn load(agent: &ureq::Agent, url: &str, n: usize) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    thread::scope(|scope| {
        let one = || -> Vec<u32> {
            (0..n / 4)
                .map(|i| {
                    let answer = agent.get(url).call();
                    let mut answer = answer.unwrap_or_else(|error| panic!("request {i}: {error}"));
                    assert_eq!(answer.status(), 200);
                    pid(&answer.body_mut().read_to_string().unwrap())
                })
                .collect()
        };
        for thread in [(); 4].map(|()| scope.spawn(one)) {
            for pid in thread.join().unwrap() {
                *counts.entry(pid).or_default() += 1;
            }
        }
    });
    assert_eq!(counts.values().sum::<usize>(), n);
    counts
}

/// Each process answered, and on Linux, which spreads by a hash, at least a quarter of all.
fn assert_spread(counts: &BTreeMap<u32, usize>, processes: &[&Process]) {
    let all: usize = counts.values().sum();
    let least = if cfg!(target_os = "linux") {
        all / 4
    } else {
        1
    };
    let ids = processes.iter().map(|process| process.id());
    assert!(
        counts.keys().copied().eq(ids.collect::<BTreeSet<_>>()),
        "{counts:?}"
    );
    assert!(counts.values().all(|&count| count >= least), "{counts:?}");
}

#[test]
fn the_http_client_opens_a_connection_for_each_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    // Answers one request of each connection, and leaves it open for more.
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().take(10).map(Result::unwrap) {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nprocess 1\n";
            stream.write_all(answer.as_bytes()).unwrap();
            open.push(stream);
        }
    });
    let agent = client();
    for _ in 0..10 {
        let body = agent.get(&url).call().unwrap().body_mut().read_to_string();
        assert_eq!(pid(&body.unwrap()), 1);
    }
}

#[test]
fn three_http_servers_share_the_load_and_one_is_killed() {
    if !spreads("that three http servers share the load") {
        return;
    }
    let (first, addr) = serve(&["http"], "127.0.0.1:0");
    let (mut second, _) = serve(&["http"], &addr.to_string());
    let (third, _) = serve(&["http"], &addr.to_string());
    let (agent, url) = (client(), format!("http://{addr}/"));

    assert_spread(&load(&agent, &url, 3_000), &[&first, &second, &third]);
    // No request is under way: the queue of the one that goes is empty.
    second.kill();
    assert_spread(&load(&agent, &url, 1_000), &[&first, &third]);
}
