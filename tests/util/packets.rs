//! Generations of UDP sockets that are read when the test says so.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::net::{SocketAddr, UdpSocket};

use reuseport::{Generation, Options};

use crate::util::{PATIENCE, assert_drained};

/// UDP sockets of one generation, each with its number.
pub struct Packets {
    pub sockets: Vec<(usize, UdpSocket)>,
    pub generation: Generation,
}

impl Packets {
    pub fn open(options: &Options, addr: SocketAddr, n: usize) -> Self {
        let (group, generation) = options.packet_generation(addr, n).unwrap();
        let sockets = group.into_iter().map(|member| {
            let number = member.number();
            let socket = member.into_std();
            socket.set_nonblocking(true).unwrap();
            (number, socket)
        });
        Self {
            sockets: sockets.collect(),
            generation,
        }
    }

    pub fn numbers(&self) -> Vec<usize> {
        self.sockets.iter().map(|(number, _)| *number).collect()
    }

    #[track_caller]
    pub fn take_over(&self) {
        assert_drained(self.generation.take_over_blocking(PATIENCE));
    }

    /// What each has, by its number.
    pub fn read(&self) -> Vec<(usize, Vec<u8>)> {
        let mut read = Vec::new();
        for (number, socket) in &self.sockets {
            let mut packet = [0; 64];
            while let Ok(len) = socket.recv(&mut packet) {
                read.push((*number, packet[..len].to_vec()));
            }
        }
        read
    }
}

/// Many flows, which are spread over all members.
pub fn send(addr: SocketAddr, count: usize, packet: &[u8]) {
    for _ in 0..count {
        let client = UdpSocket::bind((addr.ip(), 0)).unwrap();
        client.send_to(packet, addr).unwrap();
    }
}
