//! Calls of gRPC. A channel connects again by itself when the server says GOAWAY.

use std::io;
use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tonic::client::Grpc;
use tonic::codegen::http::{Uri, uri::PathAndQuery};
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::form::Kind;
use crate::loss::Failure;

pub(crate) type Kept = Option<Channel>;

pub(crate) async fn ask(kind: Kind, addr: SocketAddr, kept: &mut Kept) -> Result<String, Failure> {
    let channel = match kept {
        Some(channel) => channel.clone(),
        None => connect(kind, addr).await?,
    };
    if kind.is_kept() {
        *kept = Some(channel.clone());
    }
    let mut method = Grpc::new(channel);
    method.ready().await?;
    let path = PathAndQuery::from_static("/servers.Who/Ask");
    let codec = ProstCodec::<(), String>::default();
    let answer = method.unary(tonic::Request::new(()), path, codec).await?;
    Ok(answer.into_inner())
}

async fn connect(kind: Kind, addr: SocketAddr) -> Result<Channel, Failure> {
    let connect = move |_: Uri| async move {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        if kind == Kind::Slow {
            sleep(Kind::SLOW).await;
        }
        Ok::<_, io::Error>(TokioIo::new(stream))
    };
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?;
    let connect = tower::service_fn(connect);
    Ok(endpoint.connect_with_connector(connect).await?)
}
