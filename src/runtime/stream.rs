//! A connection of any runtime, with the traits that other crates expect.

use super::Net;

/// A connection with the traits of futures-io (feature `futures-io`) and of hyper (feature `hyper`), on
/// every runtime.
///
/// Code that is generic over the runtime hands it to what is written for those traits: a buffered reader,
/// a codec, a TLS stream, an HTTP server. Code that knows its runtime hands over the runtime's own type,
/// which it has from [`listen`](crate::ReusePort::listen).
///
/// With [`Std`](crate::Std) reading and writing block; what waits for both at once, as hyper and HTTP/2
/// do, then never writes. See [`NONBLOCKING`](crate::ReusePort::NONBLOCKING).
///
/// The connection is closed when this is dropped.
///
#[cfg_attr(feature = "futures-io", doc = "```")]
#[cfg_attr(not(feature = "futures-io"), doc = "```ignore")]
/// use futures_util::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
/// use reuseport::{Io, Net};
///
/// /// Answers each line with itself.
/// async fn lines<R: Net>(stream: R::TcpStream) -> std::io::Result<()> {
///     let mut stream = BufReader::new(Io::<R>::new(stream));
///     let mut line = String::new();
///     while stream.read_line(&mut line).await? > 0 {
///         stream.get_mut().write_all(line.as_bytes()).await?;
///         line.clear();
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Io<R: Net>(R::TcpStream);

impl<R: Net> Io<R> {
    /// Wraps a connection.
    ///
    /// ```
    /// use reuseport::{Io, Net};
    ///
    /// async fn accept<R: Net>(listener: &R::TcpListener) -> std::io::Result<Io<R>> {
    ///     let (stream, _) = R::accept(listener).await?;
    ///     Ok(Io::new(stream))
    /// }
    /// ```
    pub fn new(stream: R::TcpStream) -> Self {
        Self(stream)
    }

    /// The runtime's own connection.
    ///
    /// ```
    /// use reuseport::{Io, Net};
    ///
    /// fn peer<R: Net>(io: &Io<R>) -> std::io::Result<std::net::SocketAddr> {
    ///     R::peer_addr(io.get_ref())
    /// }
    /// ```
    pub fn get_ref(&self) -> &R::TcpStream {
        &self.0
    }

    /// Gives the runtime's own connection back.
    ///
    /// ```
    /// use reuseport::{Io, Net};
    ///
    /// fn unwrap<R: Net>(io: Io<R>) -> R::TcpStream {
    ///     io.into_inner()
    /// }
    /// ```
    pub fn into_inner(self) -> R::TcpStream {
        self.0
    }

    /// Ends the direction to the peer; what the peer has reset has ended.
    #[cfg(any(feature = "futures-io", feature = "hyper"))]
    fn end(&self) -> std::io::Result<()> {
        match R::shutdown(&self.0, std::net::Shutdown::Write) {
            Err(error) if error.kind() == std::io::ErrorKind::NotConnected => Ok(()),
            ended => ended,
        }
    }
}

#[cfg(feature = "futures-io")]
mod futures {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use futures_io::{AsyncRead, AsyncWrite};

    use super::{Io, Net};

    impl<R: Net> AsyncRead for Io<R> {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            R::poll_read(&self.0, cx, buf)
        }
    }

    impl<R: Net> AsyncWrite for Io<R> {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            R::poll_write(&self.0, cx, buf)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(self.end())
        }
    }
}

#[cfg(feature = "hyper")]
mod hyper {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use hyper::rt::{Read, ReadBufCursor, Write};

    use super::{Io, Net};

    impl<R: Net> Read for Io<R> {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            mut buf: ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            // Its own room is not initialised, and to be so costs as much as this copy.
            let mut chunk = [0; 8 << 10];
            let len = chunk.len().min(buf.remaining());
            let n = ready!(R::poll_read(&self.0, cx, &mut chunk[..len]))?;
            buf.put_slice(&chunk[..n]);
            Poll::Ready(Ok(()))
        }
    }

    impl<R: Net> Write for Io<R> {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            R::poll_write(&self.0, cx, buf)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(self.end())
        }
    }
}
