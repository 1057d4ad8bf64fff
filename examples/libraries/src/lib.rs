//! Three libraries for any runtime: what their authors need of `reuseport`, and nothing of a runtime.
//!
//! Their users name the runtime: see the programs in `examples/`.

pub mod chat;
pub mod dns;
pub mod resp;
