#![cfg_attr(
    all(feature = "std", feature = "tokio", feature = "async-std", feature = "smol"),
    doc = include_str!("../README.md")
)]
#![cfg_attr(
    not(all(
        feature = "std",
        feature = "tokio",
        feature = "async-std",
        feature = "smol"
    )),
    doc = "Several sockets on one port, the same way on std, tokio, async-std and smol."
)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod generation;
mod group;
mod open;
mod runtime;
mod see;
mod steering;
mod sys;
mod trace;

#[path = "../backends/mod.rs"]
mod backends;

#[doc = include_str!("../GUIDE.md")]
pub mod guide {}

#[cfg(all(feature = "smol", feature = "futures-io"))]
#[doc = include_str!("../LIBRARIES.md")]
pub mod libraries {}

#[cfg(feature = "async-std")]
pub use backends::AsyncStd;
#[cfg(feature = "smol")]
pub use backends::Smol;
#[cfg(feature = "std")]
pub use backends::Std;
#[cfg(feature = "tokio")]
pub use backends::Tokio;
pub use error::Error;
pub use generation::{
    Ended, Farewell, Generation, Incoming, Predecessor, Program, Relieved, Restart, Serve,
    Shutdown, Successor, TakeOver, TakeShare, Wanted, Wants,
};
#[cfg(feature = "tower")]
pub use generation::{FarewellFuture, FarewellService};
pub use group::{
    Balance, Balancer, Balancing, Drained, Engine, Group, Guarantee, Held, Leaving, Load, Member,
    Roster, Socket, local_addr,
};
pub use open::{Family, Options, ToAddr};
pub use runtime::{Io, Net, ReusePort, Runtime};
pub use see::{occupants, packet_queue, queue, support};
pub use steering::{ConnectionIds, Spread, Steering};
pub use sys::{Holder, Instruction, Occupant, PacketQueue, Process, Protocol, Queue, Support};
