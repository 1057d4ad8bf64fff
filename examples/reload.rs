//! A server that starts its own successor: `cargo run --example reload`
//!
//! `kill -HUP` of the process that it names starts the program again, by the path and with the arguments
//! that it was given. When the new process has taken over, the old one finishes its connections and ends.
//! Where the new one fails or hangs, the old one goes on. SIGTERM and Ctrl+C end the server, and reset no
//! client. `VERSION=2 cargo run --example reload -- 127.0.0.1:8080` says its version in each answer, on
//! another address. Two units for systemd are in `examples/reload`.
//!
//! As the first process of a container it lives on when a successor serves: the container would end with
//! it. It starts the later ones too, so that SIGHUP goes to the container each time.

use std::{io, process};

#[cfg(target_os = "linux")]
#[path = "reload/successor.rs"]
mod successor;

fn main() {
    if let Err(error) = serve() {
        eprintln!("{error}");
        process::exit(1);
    }
}

#[cfg(not(target_os = "linux"))]
fn serve() -> io::Result<()> {
    Err(io::Error::other("only Linux passes a port on"))
}

#[cfg(target_os = "linux")]
#[tokio::main]
async fn serve() -> io::Result<()> {
    use axum::{Router, routing::get};
    use reuseport::{Serve, Tokio};
    use sd_notify::NotifyState::{MainPid, Ready, Status};
    use std::{env, time::Duration};
    use successor::{Signals, Successors, Told, tell};
    use tokio::select;

    // Before a signal can come: it would end the process.
    let (mut signals, mut successors) = (Signals::new()?, Successors::new()?);
    let (me, addr) = (process::id(), env::args().nth(1));
    let (listener, generation) = Tokio::serve(addr.as_deref().unwrap_or("localhost:8881"))?;
    let addr = listener.local_addr()?;

    let version = env::var("VERSION").map_or(String::new(), |version| format!(" {version}"));
    let app = Router::new().route("/", get(format!("process {me}{version}\n")));
    let app = app.layer(generation.farewell());
    let server = axum::serve(listener, app).with_graceful_shutdown(generation.shutdown());
    let (mut server, mut serves) = (tokio::spawn(server.into_future()), true);
    // A handshake with a client that has vanished ends after 63 seconds.
    let mut taken = generation.take_over(Duration::from_secs(64));
    let mut is_taken = false;
    while serves || me == 1 && !successors.is_empty() {
        select! {
            drained = &mut taken, if !is_taken => {
                let lost = drained?.unaccepted;
                is_taken = true;
                println!("process {me} listens on {addr}");
                if generation.predecessor().is_none() {
                    println!("try: cargo run --example load -- {addr}");
                    println!("try: kill -HUP {me}");
                }
                tell(&[Ready, MainPid(me), Status(&format!("{lost} connections lost"))]);
            }
            told = signals.next() => match told {
                Told::Reload => successors.start(generation.clone()),
                Told::End => generation.stop(),
            },
            ended = &mut server, if serves => {
                ended??;
                generation.outcome()?;
                println!("process {me} has answered all");
                serves = false;
            }
            ended = successors.ended() => ended?,
        }
    }
    Ok(())
}
