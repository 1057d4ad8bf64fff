//! Runtimes that are added from outside: each is a marker type, and names its sockets.

mod async_io;
mod mio;
#[cfg(target_os = "linux")]
mod monoio;

pub use async_io::AsyncIo;
pub use mio::Mio;
#[cfg(target_os = "linux")]
pub use monoio::Monoio;
