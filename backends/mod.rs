//! One small file per runtime, each in the same order: imports, marker, ReusePort, Net.

#[cfg(feature = "async-std")]
mod async_std;
#[cfg(feature = "smol")]
mod smol;
#[cfg(feature = "std")]
mod std;
#[cfg(feature = "tokio")]
mod tokio;

#[cfg(feature = "async-std")]
pub use self::async_std::AsyncStd;
#[cfg(feature = "smol")]
pub use self::smol::Smol;
#[cfg(feature = "std")]
pub use self::std::Std;
#[cfg(feature = "tokio")]
pub use self::tokio::Tokio;
