//! The farewell as a layer of tower, for servers of HTTP.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::Farewell;

/// A service whose HTTP/1 answers say `Connection: close` when another process serves: see [`Farewell`].
///
/// ```
/// # #[cfg(all(target_os = "linux", feature = "tokio"))] {
/// use reuseport::{FarewellService, Generation};
///
/// fn of_any_service<S>(service: S, generation: &Generation) -> FarewellService<S> {
///     tower_layer::Layer::layer(&generation.farewell(), service)
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FarewellService<S> {
    service: S,
    farewell: Farewell,
}

impl<S> Layer<S> for Farewell {
    type Service = FarewellService<S>;

    fn layer(&self, service: S) -> FarewellService<S> {
        FarewellService {
            service,
            farewell: self.clone(),
        }
    }
}

impl<S, B, C> Service<Request<B>> for FarewellService<S>
where
    S: Service<Request<B>, Response = Response<C>>,
{
    type Response = Response<C>;
    type Error = S::Error;
    type Future = FarewellFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // HTTP/2 forbids the header (RFC 9113, 8.2.2).
        let may_close = request.version() <= Version::HTTP_11;
        FarewellFuture {
            farewell: may_close.then(|| self.farewell.clone()),
            answer: self.service.call(request),
        }
    }
}

pin_project! {
    /// The future of [`FarewellService`].
    #[derive(Debug)]
    pub struct FarewellFuture<F> {
        // None where the protocol has another farewell.
        farewell: Option<Farewell>,
        #[pin]
        answer: F,
    }
}

impl<F, C, E> Future for FarewellFuture<F>
where
    F: Future<Output = Result<Response<C>, E>>,
{
    type Output = Result<Response<C>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.answer.poll(context));
        if let (Some(farewell), Ok(response)) = (this.farewell, &mut answer) {
            if farewell.is_ending() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
        }
        Poll::Ready(answer)
    }
}
