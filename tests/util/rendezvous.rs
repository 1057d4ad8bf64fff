//! Where the processes of a server meet, as others see it.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, SockAddr, Socket, Type};

/// The abstract addresses of this namespace at which something listens.
pub fn names() -> Vec<Vec<u8>> {
    let table = std::fs::read_to_string("/proc/thread-self/net/unix").unwrap();
    let names = table.lines().filter_map(|line| {
        let name = line.split_whitespace().nth(7)?.strip_prefix('@')?;
        // A listener has this flag (kernel: __SO_ACCEPTCON).
        let listens = line.split_whitespace().nth(3) == Some("00010000");
        listens.then(|| name.as_bytes().to_vec())
    });
    names.collect()
}

pub fn addr_of(name: &[u8]) -> SocketAddr {
    SocketAddr::from_abstract_name(name).unwrap()
}

pub fn connect(name: &[u8]) -> io::Result<UnixStream> {
    UnixStream::connect_addr(&addr_of(name))
}

/// The same, as socket2 has it.
pub fn unix(name: &[u8]) -> SockAddr {
    use std::os::unix::ffi::OsStrExt;
    let path = [b"\0", name].concat();
    SockAddr::unix(std::ffi::OsStr::from_bytes(&path)).unwrap()
}

/// Connections, until the queue is full or there are so many.
pub fn fill(name: &[u8], most: usize) -> Vec<Socket> {
    let mut clients = Vec::new();
    for _ in 0..most {
        let client = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
        if client.connect(&unix(name)).is_err() {
            break;
        }
        clients.push(client);
    }
    clients
}

/// Sends bytes, and a descriptor with them.
pub fn send_with(stream: &UnixStream, bytes: &[u8], fd: &impl AsFd) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let bytes = [IoSlice::new(bytes)];
    Ok(sendmsg(stream, &bytes, &mut control, SendFlags::empty())?)
}

/// All descriptors that come until the peer hangs up, or says nothing more in the stream's time.
pub fn received(stream: &UnixStream) -> Vec<OwnedFd> {
    let mut all = Vec::new();
    loop {
        let mut bytes = [0; 512];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        match recvmsg(stream, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) if message.bytes > 0 => {}
            _ => return all,
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                all.extend(fds);
            }
        }
    }
}
