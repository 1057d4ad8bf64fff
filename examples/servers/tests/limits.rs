//! What frameworks lose by themselves: the smallest programs that show it, without reuseport.

use std::future::pending;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Message, Query};
use hickory_server::proto::rr::{Name, RecordType};
use hickory_server::server::{self, RequestHandler, ResponseHandler, ResponseInfo};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use servers::grpc::Who;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

const PATIENCE: Duration = Duration::from_secs(20);

/// Says when a query has come, and never answers it.
struct Thinks(Arc<Notify>);

#[async_trait]
impl RequestHandler for Thinks {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        _: &server::Request,
        _: R,
    ) -> ResponseInfo {
        self.0.notify_one();
        pending().await
    }
}

/// hickory's graceful shutdown does not wait for a query that it has read, and DNS has no goodbye.
///
/// So a client that keeps a connection of TCP must ask again where its query crosses the end of the
/// connection, as RFC 7766, section 6.2.4, says.
#[tokio::test]
async fn hickory_cuts_a_connection_whose_query_it_has_read() {
    let has_come = Arc::new(Notify::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut server = hickory_server::Server::new(Thinks(has_come.clone()));
    server.register_listener(listener, PATIENCE, 8);

    let mut query = Message::query();
    query.add_query(Query::query(Name::root(), RecordType::TXT));
    let query = query.to_vec().unwrap();
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_u16(query.len() as u16).await.unwrap();
    client.write_all(&query).await.unwrap();
    timeout(PATIENCE, has_come.notified()).await.unwrap();

    let ended = timeout(PATIENCE, server.shutdown_gracefully()).await;
    ended.expect("it does not wait for the answer").unwrap();
    let answer = timeout(PATIENCE, client.read_u16()).await.unwrap();
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

/// A request is given back where a goodbye has come since the connection was ready, and tonic's client does
/// not ask again.
///
/// The server has done what HTTP/2 wants, and has not seen the request.
#[tokio::test]
async fn hyper_gives_a_request_back_that_a_goodbye_has_crossed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let incoming = TcpIncoming::from(listener);
    let server = Server::builder().add_service(Who);
    let served = tokio::spawn(async move {
        let stopped = stopped.notified();
        server.serve_with_incoming_shutdown(incoming, stopped).await
    });

    let stream = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let connected = http2::handshake(TokioExecutor::new(), stream).await;
    let (mut client, connection) = connected.unwrap();
    let connection = tokio::spawn(connection);
    let request = || {
        let uri = format!("http://{addr}/servers.Who/Ask");
        Request::post(uri).body(Body::empty()).unwrap()
    };
    client.send_request(request()).await.unwrap();
    client.ready().await.unwrap();

    stop.notify_one();
    timeout(PATIENCE, served).await.unwrap().unwrap().unwrap();
    let ended = timeout(PATIENCE, connection).await.unwrap();
    ended.unwrap().unwrap();
    let mut given_back = client.try_send_request(request()).await.unwrap_err();
    assert!(given_back.take_message().is_some());
}
