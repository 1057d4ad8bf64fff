//! What a round trip costs in system calls, beside the runtime's own functions, as strace counts them.

#![cfg(target_os = "linux")]

mod util;

use std::collections::BTreeMap;
use std::env;
use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::pin::pin;
use std::process::Command;
use std::task::Poll;
use std::thread;

use reuseport::{AsyncStd, Smol, Std, Tokio, local_addr};
use util::{AsyncIo, Main, run, skip};

const ROUND_TRIPS: usize = 500;

/// In the environment of the traced process: which functions it uses.
const CASE: &str = "LIBRARIES_CASE";

/// Answers each message; a message is one segment, and the buffer is longer.
async fn by_net<R: Main>(stream: R::TcpStream) -> io::Result<()> {
    let mut buf = [0; 1024];
    while let n @ 1.. = R::read(&stream, &mut buf).await? {
        R::write_all(&stream, &buf[..n]).await?;
    }
    Ok(())
}

/// The same by what every runtime's users write.
macro_rules! by_own {
    () => {
        |mut stream| async move {
            let mut buf = [0; 1024];
            while let n @ 1.. = stream.read(&mut buf).await? {
                stream.write_all(&buf[..n]).await?;
            }
            Ok(())
        }
    };
}

/// Runs a server for a client that asks whenever the server waits for it.
fn answer<R: Main, F: Future<Output = io::Result<()>>>(answer: impl FnOnce(R::TcpStream) -> F) {
    R::block_on(async {
        let listener = R::listen("127.0.0.1:0").unwrap();
        let client = Client(TcpStream::connect(local_addr(&listener).unwrap()).unwrap());
        let (stream, _) = R::accept(&listener).await.unwrap();
        let mut server = pin!(answer(stream));
        if !R::NONBLOCKING {
            let client = thread::spawn(move || {
                for _ in 0..ROUND_TRIPS {
                    client.ask();
                    client.hear().unwrap();
                }
            });
            server.await.unwrap();
            return client.join().unwrap();
        }
        client.0.set_nonblocking(true).unwrap();
        // From here on it waits.
        poll_fn(|context| Poll::Ready(server.as_mut().poll(context).is_pending())).await;
        for _ in 0..ROUND_TRIPS {
            client.ask();
            poll_fn(|context| {
                assert!(
                    server.as_mut().poll(context).is_pending(),
                    "it waits for the next"
                );
                match client.hear() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                    heard => Poll::Ready(heard),
                }
            })
            .await
            .unwrap();
        }
        drop(client);
        server.await.unwrap();
    });
}

/// By other system calls than the server's, which are counted.
struct Client(TcpStream);

impl Client {
    fn ask(&self) {
        let question = [io::IoSlice::new(b"question")];
        assert_eq!((&self.0).write_vectored(&question).unwrap(), 8);
    }

    fn hear(&self) -> io::Result<()> {
        let mut answer = [0; 8];
        let n = (&self.0).read_vectored(&mut [io::IoSliceMut::new(&mut answer)])?;
        assert_eq!(&answer[..n], b"question");
        Ok(())
    }
}

fn case(name: &str) {
    match name {
        "std by Net" => answer::<Std, _>(by_net::<Std>),
        "std by its own" => answer::<Std, _>(|mut stream| async move {
            let mut buf = [0; 1024];
            while let n @ 1.. = stream.read(&mut buf)? {
                stream.write_all(&buf[..n])?;
            }
            Ok(())
        }),
        "tokio by Net" => answer::<Tokio, _>(by_net::<Tokio>),
        "tokio by its own" => {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            answer::<Tokio, _>(by_own!());
        }
        "smol by Net" => answer::<Smol, _>(by_net::<Smol>),
        "smol by its own" => {
            use smol::io::{AsyncReadExt, AsyncWriteExt};
            answer::<Smol, _>(by_own!());
        }
        "async-std by Net" => answer::<AsyncStd, _>(by_net::<AsyncStd>),
        "async-std by its own" => {
            use async_std::io::{ReadExt, WriteExt};
            answer::<AsyncStd, _>(by_own!());
        }
        "async-io by Net" => answer::<AsyncIo, _>(by_net::<AsyncIo>),
        "async-io by its own" => {
            use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
            answer::<AsyncIo, _>(by_own!());
        }
        _ => unreachable!("{name}"),
    }
}

/// The calls of a case, by name.
fn count(name: &str) -> Option<BTreeMap<String, usize>> {
    let trace = tempfile(name);
    let output = Command::new("strace")
        .args(["-f", "-qq", "-c", "-U", "calls,name", "-o", &trace])
        .args([
            "-e",
            "trace=recvfrom,sendto,read,write,epoll_wait,epoll_pwait,epoll_ctl,futex",
        ])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "the_case", "--nocapture", "--test-threads=1"])
        .env(CASE, name)
        .output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        output => output.unwrap(),
    };
    assert!(output.status.success(), "{name}: {output:?}");
    let table = std::fs::read_to_string(&trace).unwrap();
    std::fs::remove_file(&trace).unwrap();
    let rows = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let calls = words.next()?.parse().ok()?;
        Some((words.next()?.to_owned(), calls))
    });
    Some(rows.filter(|(name, _)| name != "total").collect())
}

fn tempfile(name: &str) -> String {
    let name = format!("{}.{}.trace", name.replace(' ', "-"), std::process::id());
    env::temp_dir().join(name).to_str().unwrap().to_owned()
}

/// The traced process; alone it does nothing.
#[test]
fn the_case() {
    if let Ok(name) = env::var(CASE) {
        case(&name);
    }
}

#[test]
fn as_many_calls_as_the_runtimes_own() {
    if run("strace", &["-qq", "true"]).is_none_or(|output| !output.status.success()) {
        return skip("what a round trip costs (strace does not run)");
    }
    println!(
        "system calls of {ROUND_TRIPS} round trips, by Net and by the runtime's own functions:"
    );
    for runtime in ["std", "tokio", "smol", "async-std", "async-io"] {
        let [net, own] = ["Net", "its own"].map(|by| count(&format!("{runtime} by {by}")).unwrap());
        for call in ["recvfrom", "sendto"] {
            let [net, own] = [&net, &own].map(|calls| calls.get(call).copied().unwrap_or_default());
            println!("{runtime:10} {call:9} {net:5} {own:5}");
            assert!(own >= ROUND_TRIPS, "{runtime}: {own} {call}");
            // Another thread of async-std's says when to read, so both numbers depend on the machine: a read tries at
            // once, when it was told of the message before, once more for each of two polls, and then has it.
            let most = match runtime {
                "async-std" => own.max(4 * ROUND_TRIPS),
                _ => own,
            };
            assert!(
                net * 100 <= most * 105,
                "{runtime}: {net} {call}, and {own} by its own"
            );
        }
        let [net, own] = [net, own].map(|calls| calls.into_values().sum::<usize>());
        println!("{runtime:10} all       {net:5} {own:5}");
    }
}
