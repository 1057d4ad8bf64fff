use std::io;

use actix_web::{App, HttpServer, web};
use reuseport::{ReusePort, Std};

#[actix_web::main]
pub(crate) async fn main() -> io::Result<()> {
    let listener = Std::listen(servers::addr())?;
    HttpServer::new(|| App::new().route("/", web::get().to(|| async { servers::who() })))
        .disable_signals()
        .listen(listener)?
        .run()
        .await
}
