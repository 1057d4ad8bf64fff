use ::std::future::Future;
use ::std::io;
use ::std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use ::std::pin::pin;
use ::std::sync::Arc;
use ::std::task::{Context, Poll, Wake, Waker};
use ::std::thread::{self, Thread};
use ::std::time::Duration;

use crate::runtime::deadline::{self, current, ended};
use crate::sys::bounded;
use crate::{Incoming, Net, ReusePort, Runtime};

/// The standard library: blocking sockets, for threads.
///
/// The futures of its [`Net`] and [`Runtime`] functions block, and are ready when they are first polled.
/// That serves a thread per connection, and any executor can poll them, but:
///
/// - They must not be raced or joined: the first one blocks until it is ready, and the others are not
///   polled meanwhile. A thread for each direction of a connection does what `join` does, because all
///   functions borrow the socket.
/// - They must not run on a thread that drives other tasks.
/// - A deadline is [`Runtime::within`], which ends the calls of this thread, and sets nothing on the
///   socket. On Windows and WASI they are [`Unsupported`](io::ErrorKind::Unsupported) within a deadline. A
///   wait for [`accept`](Net::accept) can be longer, until the next connection, where another thread
///   without a deadline, or another process, accepts from the same listener.
///   [`lookup`](Net::lookup) takes as long as the system's resolver.
/// - Dropping a future ends nothing that blocks. [`Net::shutdown`] from another thread does.
///
/// Generic code can ask: [`NONBLOCKING`](ReusePort::NONBLOCKING) is false.
///
/// ```
/// use reuseport::{ReusePort, Std};
///
/// let listener: std::net::TcpListener = Std::listen("localhost:0")?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Std;

impl ReusePort for Std {
    type TcpListener = TcpListener;
    type TcpStream = TcpStream;
    type UdpSocket = UdpSocket;

    const NONBLOCKING: bool = false;

    fn tcp_listener(listener: TcpListener) -> io::Result<TcpListener> {
        Ok(listener)
    }

    fn tcp_stream(stream: TcpStream) -> io::Result<TcpStream> {
        Ok(stream)
    }

    fn udp_socket(socket: UdpSocket) -> io::Result<UdpSocket> {
        Ok(socket)
    }
}

impl Net for Std {
    async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        ended(bounded::accept(listener, current()))
    }

    fn poll_read(
        stream: &TcpStream,
        _: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(ended(bounded::read(stream, buf, current())))
    }

    fn poll_write(stream: &TcpStream, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(ended(bounded::write(stream, buf, current())))
    }

    async fn recv_from(socket: &UdpSocket, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        ended(bounded::recv_from(socket, buf, current()))
    }

    async fn send_to(socket: &UdpSocket, buf: &[u8], to: SocketAddr) -> io::Result<usize> {
        ended(bounded::send_to(socket, buf, to, current()))
    }

    async fn connected(stream: TcpStream) -> io::Result<TcpStream> {
        ended(bounded::finish_connect(&stream, current()))?;
        Ok(stream)
    }

    async fn lookup(host: &str) -> io::Result<Vec<SocketAddr>> {
        host.to_socket_addrs().map(Iterator::collect)
    }
}

impl Runtime for Std {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name("reuseport-task".to_owned());
        thread.spawn(move || run(task)).map(drop)
    }

    async fn sleep(duration: Duration) {
        deadline::sleep(duration);
    }

    fn within<T>(
        duration: Duration,
        operation: impl Future<Output = io::Result<T>> + Send,
    ) -> impl Future<Output = io::Result<T>> + Send {
        deadline::within(duration, operation)
    }
}

/// Polls a task until it ends; it may wait for others, as for a channel, without blocking.
fn run(task: impl Future<Output = ()>) {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Arc::new(Unpark(thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut task = pin!(task);
    while task.as_mut().poll(&mut context).is_pending() {
        thread::park();
    }
}

/// Blocks until the next connection has come; the end is when no more can come.
///
/// ```no_run
/// # #[cfg(target_os = "linux")] {
/// use std::io::Write;
/// use reuseport::{Serve, Std};
///
/// let (listener, generation) = Std::serve("[::]:8881")?;
/// for accepted in generation.incoming::<Std>(listener) {
///     let Ok((mut stream, _)) = accepted else { continue };
///     std::thread::spawn(move || stream.write_all(b"hello\n"));
/// }
/// generation.outcome()?;
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
impl Iterator for Incoming<Std> {
    type Item = io::Result<(TcpStream, SocketAddr)>;

    fn next(&mut self) -> Option<Self::Item> {
        let accept = pin!(self.accept());
        // It blocks in its first poll.
        match accept.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(accepted) => accepted,
            Poll::Pending => None,
        }
    }
}
