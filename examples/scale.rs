//! Workers come and go while they serve: `cargo run --example scale`
//!
//! Each is a thread with a runtime of its own. A line `+` starts another, and `-` ends the last,
//! while `cargo run --example load` asks them. The argument is another address.

mod graceful;

use std::{env, io, net::TcpListener, process, thread, time};

use axum::{Router, routing::get};
use reuseport::{Member, Options, Tokio};
use tokio::sync::oneshot::{self, Receiver};

fn main() {
    check(scale());
}

fn check(result: io::Result<()>) {
    if let Err(error) = result {
        eprintln!("{error}");
        process::exit(1);
    }
}

fn scale() -> io::Result<()> {
    let addr = env::args().nth(1);
    let group = Options::new().group(addr.as_deref().unwrap_or("localhost:8881"), 2)?;
    let (roster, addr) = (group.roster(), group.local_addr());
    println!("process {} listens on {addr}", process::id());
    println!("try: cargo run --example load -- {addr}");
    println!("try: a line + starts a member, and - ends the last");
    let start = |member: Member<TcpListener>| {
        let (number, (left, told)) = (member.number(), oneshot::channel());
        println!("member {number} serves");
        thread::spawn(|| check(work(member, told)));
        (number, left)
    };
    let mut workers: Vec<_> = group.into_iter().map(start).collect();
    for line in io::stdin().lines() {
        match &*line? {
            "+" => workers.push(start(roster.join()?)),
            "-" if workers.len() > 1 => {
                let (number, _left) = workers.swap_remove(workers.len() - 1);
                let (begin, leaving) = (time::Instant::now(), roster.leave(number)?);
                let guarantee = leaving.guarantee();
                let lost = leaving.wait()?.unaccepted;
                let took = begin.elapsed();
                println!("member {number} has left: {guarantee:?}, {lost} lost, after {took:.0?}");
            }
            _ => println!("+ or -, and not the last"),
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn work(member: Member<TcpListener>, left: Receiver<()>) -> io::Result<()> {
    let who = format!("process {} member {}\n", process::id(), member.number());
    let app = Router::new().route("/", get(who));
    graceful::serve(member.attach::<Tokio>()?, app, async { drop(left.await) }).await
}
