use crate::sys::{self, Support};

/// What sharing a port means on the running system.
///
/// On Linux the first call asks the kernel, with a few sockets that nothing can reach, because WSL1,
/// gVisor and old kernels differ. The answer is remembered. On other systems it is known already.
///
/// ```
/// let support = reuseport::support();
/// if !support.shares {
///     println!("each port has one socket here, and groups have one queue");
/// }
/// ```
#[must_use]
pub fn support() -> Support {
    sys::support()
}
