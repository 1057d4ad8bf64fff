//! What another process says, with descriptors that come along: none of them stays open.

#![no_main]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

libfuzzer_sys::fuzz_target!(|input: (u8, Vec<u8>)| {
    let (count, bytes) = input;
    let before = descriptors();
    {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fds = vec![theirs.as_fd(); usize::from(count % 8)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        // What has no byte brings no descriptor.
        let _ = sendmsg(
            &theirs,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::DONTWAIT,
        );
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        reuseport::fuzz::frame(&ours);
    }
    assert_eq!(descriptors(), before);
});

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
