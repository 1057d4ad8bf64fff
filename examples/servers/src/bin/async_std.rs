//! async-std: `cargo run --bin async_std -- localhost:8881`, and again in another terminal.

use std::io;

use async_std::channel;
use async_std::io::{ReadExt, WriteExt};
use async_std::net::TcpStream;
use async_std::task;
use futures_lite::FutureExt;
use reuseport::{AsyncStd, Generation, Serve};

#[async_std::main]
async fn main() -> io::Result<()> {
    let (listener, generation) = AsyncStd::serve(servers::addr())?; // instead of TcpListener::bind
    servers::stop_on_sigterm(&generation); // SIGTERM

    let (open, ended) = channel::bounded::<()>(1);
    let mut incoming = generation.incoming::<AsyncStd>(listener); // reuseport 1
    while let Some(accepted) = incoming.accept().await {
        let Ok((stream, _)) = accepted else { continue };
        let (open, generation) = (open.clone(), generation.clone());
        task::spawn(async move {
            // A client that goes away is no error of the server's.
            let _ = serve(stream, generation).await;
            drop(open);
        });
    }
    drop(open);
    // An error when every connection has ended.
    let _ = ended.recv().await;
    generation.outcome()?; // reuseport 2
    Ok(())
}

async fn serve(mut stream: TcpStream, generation: Generation) -> io::Result<()> {
    let mut end = generation.shutdown(); // reuseport 3: no request comes any more
    let (mut buf, mut received) = ([0; 1024], Vec::new());
    loop {
        let no_more = async {
            (&mut end).await;
            Ok(0)
        };
        let n = stream.read(&mut buf).or(no_more).await?;
        if n == 0 {
            return Ok(());
        }
        received.extend_from_slice(&buf[..n]);
        let closes = generation.farewell().is_ending(); // reuseport 4: the client's next request is another process's
        while let Some(answer) = servers::http::answer(&mut received, closes) {
            stream.write_all(&answer).await?;
            if closes {
                return Ok(());
            }
        }
    }
}
