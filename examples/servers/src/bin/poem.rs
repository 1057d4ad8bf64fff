//! poem: `cargo run --bin poem -- localhost:8881`, and again in another terminal.

use std::future::ready;
use std::io;

use poem::http::header::{CONNECTION, HeaderValue};
use poem::listener::TcpAcceptor;
use poem::{EndpointExt, Response, Route, Server, get, handler};
use reuseport::{Serve, Tokio};

#[handler]
fn who() -> String {
    servers::who()
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let (listener, generation) = Tokio::serve(servers::addr())?; // instead of TcpListener::bind
    servers::stop_on_sigterm(&generation); // SIGTERM

    let farewell = generation.farewell(); // reuseport 1
    let app = Route::new().at("/", get(who)).map_to_response().after(
        move |mut answer: poem::Result<Response>| {
            // reuseport: its requests are not those of the crate http, so the layer is not for it.
            if farewell.is_ending()
                && let Ok(answer) = &mut answer
            {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            ready(answer)
        },
    );
    Server::new_with_acceptor(TcpAcceptor::from_tokio(listener)?)
        .run_with_graceful_shutdown(app, generation.shutdown(), None) // reuseport 2
        .await?;
    generation.outcome()?; // reuseport 3
    Ok(())
}
