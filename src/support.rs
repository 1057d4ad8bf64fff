use crate::sys;

/// What sharing a port means on the running system.
///
/// ```
/// let support = reuseport::support();
/// if !support.spreads {
///     println!("one of the listeners gets every connection here");
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Support {
    /// Can several sockets be bound to one port?
    pub shares: bool,
    /// Does the kernel spread connections and datagrams over the sockets of a port?
    ///
    /// Where it does not, one socket gets everything: on Apple's systems the newest at one address
    /// and the oldest at a wildcard, on NetBSD and OpenBSD the newest.
    pub spreads: bool,
    /// Does the kernel let a program choose the socket (`SO_ATTACH_REUSEPORT_CBPF`)?
    pub steers: bool,
    /// Can one shared socket take IPv6 and IPv4?
    pub dual_stack: bool,
    /// The most members that a group with a queue each can have; `usize::MAX` where only
    /// descriptors run out, as they do for a group with one queue everywhere.
    pub group_limit: usize,
}

/// What sharing a port means here.
///
/// On Linux the running kernel is asked at the first call, with a few sockets that nothing can
/// reach, because WSL1, gVisor and old kernels answer differently; the answer is remembered.
#[must_use]
pub fn support() -> Support {
    sys::support()
}
