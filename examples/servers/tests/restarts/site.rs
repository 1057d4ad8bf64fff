//! A server of three protocols on two ports, which pass to the next process together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;

use crate::form::{Form, Protocol};
use crate::run::{PATIENCE, addr, await_answer, clients, join};
use crate::server::Server;
use crate::table::Table;
use crate::tally::{Phase, Tally};

/// HTTPS and HTTP/3 have one port number.
const PROTOCOLS: [Protocol; 3] = [Protocol::Http, Protocol::Https, Protocol::H3];

/// No answer takes longer.
const SOON: Duration = Duration::from_secs(20);

/// Replaces the server so often, while clients of all protocols ask, and stops the last process.
fn replaced(form: &Form) -> Table {
    let (http, https) = (addr(20), addr(21));
    let to = |protocol| match protocol {
        Protocol::Http => http,
        _ => https,
    };
    let start = || Server::start(env!("CARGO_BIN_EXE_site"), Some(&http.to_string()), https);
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let mut server = start();
    let mut loads = Vec::new();
    for protocol in PROTOCOLS {
        await_answer(&runtime, protocol, to(protocol), server.pid());
        let tally = Arc::new(Tally::new(protocol));
        let clients = clients(&runtime, protocol, form, to(protocol), SOON, &tally);
        loads.push((protocol, tally, clients));
    }
    let serves = |server: &Server| {
        for (protocol, tally, _) in &loads {
            let serves = tally.wait(server.pid(), form.answers, PATIENCE);
            let pid = server.pid();
            tally.change(|counts| assert!(serves, "{protocol}: {pid}: {:?}", counts.sentences));
        }
    };
    serves(&server);
    let (mut processes, mut relieved) = (vec![server.pid()], Vec::new());
    let began = Instant::now();
    for _ in 0..form.restarts {
        let next = start();
        serves(&next);
        processes.push(next.pid());
        relieved.push(std::mem::replace(&mut server, next));
    }
    println!(
        "site: replaced {} times in {:.1?}",
        form.restarts,
        began.elapsed()
    );

    let mut refused = Vec::new();
    for (protocol, tally, clients) in &mut loads {
        tally.enter(Phase::Ending);
        let is_refused = |(kind, _): &(_, _)| protocol.refuses(*kind);
        let (these, others): (Vec<_>, Vec<_>) = clients.drain(..).partition(is_refused);
        join(&runtime, others);
        refused.extend(these);
    }
    for (_, tally, _) in &loads {
        tally.enter(Phase::Stopping);
    }
    server.terminate();
    relieved.push(server);
    for mut server in relieved {
        let status = server.ends();
        assert!(status.success(), "site: {status}");
    }
    join(&runtime, refused);

    let mut table = Table::new();
    processes.sort_unstable();
    for (protocol, tally, _) in loads {
        let tally = Arc::into_inner(tally).expect("all clients have ended");
        let counts = tally.into_counts();
        let answered: Vec<_> = counts.processes.keys().copied().collect();
        assert_eq!(answered, processes, "{protocol}: who answered");
        table.add(&format!("site, {protocol}"), protocol, &counts, None);
    }
    table
}

#[test]
fn three_protocols() {
    replaced(&Form::FIVE).check(Form::FIVE.answers);
}

#[test]
#[ignore = "takes minutes"]
fn three_protocols_ten_times() {
    let table = replaced(&Form::LONG);
    println!("{table}");
    table.check(5_000);
}
