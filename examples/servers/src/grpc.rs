//! `service Who { rpc Ask(Empty) returns (StringValue) }`, written by hand, so that no protoc is needed.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService};
use tonic_prost::ProstCodec;

#[derive(Clone)]
pub struct Who;

impl NamedService for Who {
    const NAME: &'static str = "servers.Who";
}

impl Service<http::Request<Body>> for Who {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let ask = |_: tonic::Request<()>| ready(Ok(tonic::Response::new(crate::who())));
        Box::pin(async move {
            let mut method = Grpc::new(ProstCodec::<String, ()>::default());
            Ok(method.unary(tower::service_fn(ask), request).await)
        })
    }
}
