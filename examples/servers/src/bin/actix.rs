//! actix-web: `cargo run --bin actix -- localhost:8881`, and again in another terminal.

use std::io;

use actix_web::dev::Service;
use actix_web::http::ConnectionType;
use actix_web::{App, HttpServer, web};
use reuseport::{Serve, Std};

#[actix_web::main]
async fn main() -> io::Result<()> {
    let (listener, generation) = Std::serve(servers::addr())?; // instead of HttpServer::bind
    servers::stop_on_sigterm(&generation); // SIGTERM

    let farewell = generation.farewell(); // reuseport 1
    HttpServer::new(move || {
        let farewell = farewell.clone();
        App::new()
            .wrap_fn(move |request, app| {
                let (farewell, answer) = (farewell.clone(), app.call(request));
                async move {
                    let mut answer = answer.await?;
                    // reuseport: the header alone does not close the connection, and is not sent.
                    if farewell.is_ending() {
                        let head = answer.response_mut().head_mut();
                        head.set_connection_type(ConnectionType::Close);
                    }
                    Ok(answer)
                }
            })
            .route("/", web::get().to(|| async { servers::who() }))
    })
    .shutdown_signal(generation.shutdown()) // reuseport 2
    .listen(listener)?
    .run()
    .await?;
    generation.outcome()?; // reuseport 3
    Ok(())
}
