//! A server that starts its next version at SIGHUP: `cargo run --example reload`
//!
//! `kill -HUP` of the process that it names starts the program again, by the path and with the arguments
//! that it was given. When the new process has taken over, the old one finishes its connections and ends.
//! Where the new one fails or hangs, the old one goes on. SIGTERM and Ctrl+C end the server, and reset no
//! client. Another address: `cargo run --example reload -- 127.0.0.1:8080`. Two units for systemd are in
//! `examples/reload`. Elsewhere than on Linux it does nothing.
//!
//! As the first process of a container (PID 1) it lives on when another serves: the container would end with it.
//! It passes the signals on to the others, and ends when all of them have.

#[cfg(target_os = "linux")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    use axum::{Router, routing::get};
    use reuseport::{Program, Serve, Tokio};
    use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};
    use sd_notify::{NotifyState as Tell, notify, notify_with_fds};
    use std::os::{fd::AsFd, unix::net::UnixStream, unix::process::ExitStatusExt};
    use std::{env, io, io::Read, iter::from_fn, process, process::ExitStatus, time::Duration};
    use tokio::signal::unix::{SignalKind as Kind, signal};
    use tokio::task::{JoinSet, spawn_blocking};

    // Before a chdir, and before a signal can come, which would end the process.
    let (me, program) = (process::id(), Program::current()?);
    let (mut hangup, mut terminate) = (signal(Kind::hangup())?, signal(Kind::terminate())?);
    let addr = env::args().nth(1).unwrap_or("localhost:8881".to_owned());
    let (listener, generation) = Tokio::serve(&*addr)?;
    let app = Router::new().route("/", get(format!("process {me}\n")));
    let app = app.layer(generation.farewell());
    let server = axum::serve(listener, app).with_graceful_shutdown(generation.shutdown());
    let (mut server, mut serves) = (tokio::spawn(server.into_future()), true);

    // A handshake with a client that has vanished ends after 63 seconds.
    generation.take_over(Duration::from_secs(64)).await?;
    println!("process {me} listens on {addr}\ntry: kill -HUP {me}");
    // Where systemd has not started the program it goes nowhere.
    let _ = notify(&[Tell::Ready, Tell::MainPid(me), Tell::Status("it serves")]);

    // To 1 it means all other processes of the container (kill(2)); an error where there is none.
    let pass_on = |signal| (me == 1).then(|| kill_process_group(Pid::INIT, signal));
    let (mut restarts, mut ended) = (JoinSet::new(), JoinSet::<io::Result<ExitStatus>>::new());
    while serves || me == 1 && !ended.is_empty() {
        tokio::select! {
            _ = hangup.recv(), if restarts.is_empty() => if generation.is_relieved() { pass_on(Signal::HUP); } else {
                let _ = notify(&[Tell::Reloading, Tell::monotonic_usec_now()?]);
                restarts.spawn(generation.restart(program.command()));
            },
            Some(restarted) = restarts.join_next() => match restarted? {
                Ok(successor) => drop(ended.spawn(async move {
                    let status = successor.ended().await?;
                    // The first process is the parent of all whose own parent has ended.
                    let last = spawn_blocking(|| from_fn(|| wait(WaitOptions::empty()).ok()?).last()).await?;
                    Ok(last.map_or(status, |(_, last)| ExitStatus::from_raw(last.as_raw())))
                })),
                Err(error) => { eprintln!("{error}"); let _ = notify(&[Tell::Ready, Tell::Status(&error.to_string())]); }
            },
            Some(status) = ended.join_next() => {
                let Some(status) = Some(status??).filter(|status| !status.success()) else { continue };
                // It fails as the main process, so that systemd starts another, when that has heard it.
                let (mut here, there) = UnixStream::pair()?;
                let _ = notify(&[Tell::MainPid(me)]);
                let _ = notify_with_fds(&[Tell::Custom("BARRIER=1")], &[there.as_fd()]);
                drop(there);
                let _ = here.read(&mut [0]);
                return Err(format!("the new process ended: {status}").into());
            }
            result = &mut server, if serves => {
                serves = false;
                result?.and(generation.outcome().map_err(Into::into))?;
                println!("process {me} has answered all");
            }
            _ = terminate.recv() => { generation.stop(); pass_on(Signal::TERM); }
            _ = tokio::signal::ctrl_c() => { generation.stop(); pass_on(Signal::TERM); }
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {}
