use std::io;

use poem::listener::TcpAcceptor;
use poem::{Route, Server, get, handler};
use reuseport::{ReusePort, Tokio};

#[handler]
fn who() -> String {
    servers::who()
}

#[tokio::main]
pub(crate) async fn main() -> io::Result<()> {
    let listener = Tokio::listen(servers::addr())?;
    let app = Route::new().at("/", get(who));
    Server::new_with_acceptor(TcpAcceptor::from_tokio(listener)?)
        .run(app)
        .await
}
