//! Listeners that systemd keeps while its service restarts: `cargo run --example fdstore`
//!
//! Who connects meanwhile waits, and the next process answers. In a unit: `KillSignal=SIGINT`,
//! `NotifyAccess=main` and `FileDescriptorStoreMax=512`. The argument is another address.

mod graceful;

use std::{collections::BTreeMap, env, io, net::TcpListener, process, thread};

use axum::{Router, routing::get};
use listenfd::ListenFd;
use reuseport::{Group, Options, Tokio};
use tokio::{signal, task::JoinSet};

fn main() {
    if let Err(error) = kept().and_then(serve) {
        eprintln!("{error}");
        process::exit(1);
    }
}

/// What systemd has kept, in the order of the names, which are the members' numbers.
fn kept() -> io::Result<BTreeMap<usize, TcpListener>> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let (mut fds, mut kept) = (ListenFd::from_env(), BTreeMap::new());
    for (at, name) in names.split(':').enumerate().take(fds.len()) {
        if let (Ok(number), Some(listener)) = (name.parse(), fds.take_tcp_listener(at)?) {
            kept.insert(number, listener);
        }
    }
    Ok(kept)
}

#[tokio::main]
async fn serve(kept: BTreeMap<usize, TcpListener>) -> io::Result<()> {
    let (me, addr) = (process::id(), env::args().nth(1));
    let addr = addr.as_deref().unwrap_or("localhost:8881");
    let group = match kept.len() {
        0 => Options::new().group(addr, thread::available_parallelism()?.get())?,
        _ => Group::adopt(kept.into_values())?,
    };
    let addr = group.local_addr();
    println!("process {me} listens on {addr}");
    println!("try: cargo run --example load -- {addr}");
    println!("try: systemctl restart, where it is a service");
    let app = Router::new().route("/", get(format!("process {me}\n")));
    let mut workers = JoinSet::new();
    for member in group {
        #[cfg(unix)]
        keep(&member.number().to_string(), &member)?;
        let end = async { signal::ctrl_c().await.expect("there are signals") };
        workers.spawn(graceful::serve(member.attach::<Tokio>()?, app.clone(), end));
    }
    workers.join_all().await.into_iter().collect()
}

/// Twice does no harm: systemd sees that it has the socket.
#[cfg(unix)]
fn keep(name: &str, listener: &impl std::os::fd::AsFd) -> io::Result<()> {
    use sd_notify::NotifyState::{FdName, FdStore};
    sd_notify::notify_with_fds(&[FdStore, FdName(name)], &[listener.as_fd()])
}
