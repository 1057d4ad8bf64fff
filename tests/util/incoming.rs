//! A worker whose accepting ends by itself, in any runtime.

#![allow(unreachable_pub, reason = "a module of many crates")]

use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use reuseport::{Generation, Member};

use crate::util::Runtime;

/// Answers each connection with that byte until no more can come; how many there were.
pub fn answering<R: Runtime>(
    member: Member<TcpListener>,
    generation: &Generation,
    answer: u8,
) -> JoinHandle<usize> {
    let generation = generation.clone();
    thread::spawn(move || {
        R::block_on(async {
            let mut incoming = generation.incoming::<R>(member.attach::<R>().unwrap());
            let mut accepted = 0;
            while let Some(stream) = incoming.accept().await {
                R::write_all(&stream.unwrap().0, &[answer]).await.unwrap();
                accepted += 1;
            }
            accepted
        })
    })
}
