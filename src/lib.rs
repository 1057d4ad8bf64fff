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

mod addr;
mod adopt;
mod dial;
mod emptying;
mod error;
mod generation;
mod group;
mod handover;
mod holder;
mod leaving;
mod member;
mod occupant;
mod opening;
mod options;
mod program;
mod promise;
mod queue;
mod roster;
mod runtime;
mod slot;
mod socket;
mod spread;
mod steering;
mod succession;
mod support;
mod sys;
mod table;
mod trace;

#[path = "../backends/mod.rs"]
mod backends;

pub use addr::{Family, ToAddr};
#[cfg(feature = "async-std")]
pub use backends::AsyncStd;
#[cfg(feature = "smol")]
pub use backends::Smol;
#[cfg(feature = "std")]
pub use backends::Std;
#[cfg(feature = "tokio")]
pub use backends::Tokio;
pub use error::Error;
pub use generation::{Generation, Relieved, TakeOver};
pub use group::Group;
pub use holder::Holder;
pub use leaving::{Leaving, Settled};
pub use member::Member;
pub use occupant::{Occupant, Process, Protocol, occupants};
pub use options::Options;
pub use promise::Promise;
pub use queue::{PacketQueue, Queue, packet_queue, queue};
pub use roster::Roster;
pub use runtime::{Net, ReusePort};
pub use socket::{Socket, local_addr};
pub use spread::Spread;
pub use steering::{ConnectionIds, Instruction, Steering};
pub use support::{Support, support};
