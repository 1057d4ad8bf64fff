//! One server is replaced again and again, while its clients ask.

use std::net::{Ipv4Addr, SocketAddr};
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::{Client, probe};
use crate::form::{Form, Kind, Protocol};
use crate::server::Server;
use crate::tally::{Counts, Phase, Tally};

/// No step of a test takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Replaces the server as often as the form says, and stops the last process.
pub(crate) fn replaced(
    index: usize,
    name: &str,
    program: &str,
    protocol: Protocol,
    form: &Form,
) -> Counts {
    let addr = addr(index);
    let load = Load::start(protocol, form, addr, Duration::from_secs(20), || {
        Server::start(program, None, addr)
    });
    let mut processes = vec![load.server.pid()];
    let mut server = load.server;
    let mut relieved = Vec::new();
    let tally = load.tally;
    let began = Instant::now();
    let serves = |server: &Server| {
        let pid = server.pid();
        let serves = tally.wait(pid, form.answers, PATIENCE);
        tally.change(|counts| {
            let (sentences, processes) = (&counts.sentences, &counts.processes);
            assert!(serves, "{name}: {pid} of {processes:?}: {sentences:?}");
        });
    };
    serves(&server);
    for _ in 0..form.restarts {
        let next = Server::start(program, None, addr);
        serves(&next);
        processes.push(next.pid());
        relieved.push(std::mem::replace(&mut server, next));
    }
    println!(
        "{name}: replaced {} times in {:.1?}",
        form.restarts,
        began.elapsed()
    );

    tally.enter(Phase::Ending);
    let (refused, others): (Vec<_>, Vec<_>) = load
        .clients
        .into_iter()
        .partition(|(kind, _)| protocol.refuses(*kind));
    join(&load.runtime, others);
    tally.enter(Phase::Stopping);
    let began = Instant::now();
    server.terminate();
    relieved.push(server);
    for mut server in relieved {
        let status = server.ends();
        assert!(status.success(), "{name}: {status}");
    }
    println!("{name}: stopped in {:.1?}", began.elapsed());
    join(&load.runtime, refused);

    let tally = Arc::into_inner(tally).expect("all clients have ended");
    let counts = tally.into_counts();
    let answered: Vec<_> = counts.processes.keys().copied().collect();
    processes.sort_unstable();
    assert_eq!(answered, processes, "{name}: who answered");
    counts
}

/// The same with the server of the framework's introduction, which closes its sockets at SIGTERM.
pub(crate) fn replaced_naively(
    index: usize,
    name: &str,
    protocol: Protocol,
    form: &Form,
) -> Counts {
    let program = env!("CARGO_BIN_EXE_hello");
    let addr = addr(index);
    let start = || Server::start(program, Some(name), addr);
    let load = Load::start(protocol, form, addr, Duration::from_secs(2), start);
    let mut server = load.server;
    for _ in 0..form.restarts {
        let next = start();
        // A new connection comes to each of the two by chance.
        await_answer(&load.runtime, protocol, addr, next.pid());
        server.terminate();
        server.ends();
        server = next;
        let serves = load.tally.wait(server.pid(), form.answers / 10, PATIENCE);
        assert!(serves, "{name}: {} does not serve", server.pid());
    }
    load.tally.enter(Phase::Over);
    join(&load.runtime, load.clients);
    let tally = Arc::into_inner(load.tally).expect("all clients have ended");
    tally.into_counts()
}

/// A server, and clients that ask it without a pause.
struct Load {
    server: Server,
    tally: Arc<Tally>,
    clients: Vec<(Kind, JoinHandle<()>)>,
    runtime: Runtime,
}

impl Load {
    fn start(
        protocol: Protocol,
        form: &Form,
        addr: SocketAddr,
        soon: Duration,
        start: impl Fn() -> Server,
    ) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let server = start();
        await_answer(&runtime, protocol, addr, server.pid());
        let tally = Arc::new(Tally::new(protocol));
        Self {
            clients: clients(&runtime, protocol, form, addr, soon, &tally),
            server,
            tally,
            runtime,
        }
    }
}

/// Clients of each kind, which ask until the tally says that it is over.
pub(crate) fn clients(
    runtime: &Runtime,
    protocol: Protocol,
    form: &Form,
    addr: SocketAddr,
    soon: Duration,
    tally: &Arc<Tally>,
) -> Vec<(Kind, JoinHandle<()>)> {
    let mut clients = Vec::new();
    for &kind in protocol.kinds() {
        for _ in 0..form.clients(protocol, kind) {
            let client = Client {
                protocol,
                kind,
                addr,
                soon,
            };
            let asks = client.asks(Arc::clone(tally));
            clients.push((kind, runtime.spawn(asks)));
        }
    }
    clients
}

/// Waits until this process answers, with requests that nobody counts.
pub(crate) fn await_answer(runtime: &Runtime, protocol: Protocol, addr: SocketAddr, pid: u32) {
    let until = Instant::now() + PATIENCE;
    while runtime.block_on(probe(protocol, addr)) != Some(pid) {
        assert!(Instant::now() < until, "{pid} does not answer");
    }
}

pub(crate) fn join(runtime: &Runtime, clients: Vec<(Kind, JoinHandle<()>)>) {
    runtime.block_on(async {
        for (_, client) in clients {
            let ended = timeout(PATIENCE, client).await;
            ended.expect("a client ends").unwrap();
        }
    });
}

/// An address of the framework's own, which no outgoing connection takes: those come from 127.0.0.1.
pub(crate) fn addr(index: usize) -> SocketAddr {
    let [.., high, low] = process::id().to_be_bytes();
    let framework = 100 + index as u8;
    (Ipv4Addr::new(127, framework, high, low), 18881).into()
}
