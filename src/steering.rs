use std::fmt;
use std::sync::Arc;

use crate::program::{self, Layout};
use crate::sys::{self, Dispatch, Kind, OwnedFd};

/// How the kernel chooses the member of a group that gets a connection or a datagram.
///
/// [`Options::steering`](crate::Options::steering) sets it for a group that is opened,
/// [`Group::steer`](crate::Group::steer) and [`Roster::steer`](crate::Roster::steer) change it
/// while connections come in; none is lost by that. On Linux no privilege is needed. Elsewhere
/// everything but `Hash` is [`Unsupported`](std::io::ErrorKind::Unsupported), as it is for MPTCP.
///
/// Where a member that was chosen has left, the hash decides: nothing is refused.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use reuseport::{Options, Steering};
///
/// // The second member gets three connections of four.
/// let weights = Steering::Weights(vec![1, 3]);
/// let group = Options::new().steering(weights).group("localhost:0", 2)?;
/// group.steer(&Steering::Hash)?;
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Steering {
    /// The kernel's own choice, by a hash of both addresses and ports.
    #[default]
    Hash,
    /// The member of the processor that handled the packet: member *i* has the *i*-th processor
    /// that the thread which opens the group may use, as `core_affinity::get_core_ids` numbers
    /// them. Where there are more members than processors, several share one.
    ///
    /// For workers that are pinned, each to its processor, so that a connection stays where its
    /// packets arrive. It is worse than `Hash` where fewer processors handle packets than there are
    /// members, as with a network card of one queue: then one member gets everything.
    ///
    /// By `SO_INCOMING_CPU` on each member where the kernel honours that in groups (Linux 6.2, and
    /// earlier where it was carried back), which needs no indices; else by a program.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Options, Std, Steering};
    ///
    /// let cores = core_affinity::get_core_ids().unwrap_or_default();
    /// let group = Options::new().steering(Steering::Cpu).group("[::]:443", cores.len())?;
    /// for (member, core) in group.into_iter().zip(cores) {
    ///     std::thread::spawn(move || {
    ///         core_affinity::set_for_current(core);
    ///         member.attach::<Std>()
    ///     });
    /// }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    Cpu,
    /// Member *i* gets its share of the sum, and nothing for weight 0. A flow of datagrams stays
    /// with one member.
    Weights(Vec<u32>),
    /// The number of a member stands in each datagram.
    ConnectionIds(ConnectionIds),
    /// A classic BPF program of the caller's, 1 to 4,096 instructions, that returns an index of the
    /// group.
    ///
    /// Offset 0 is the payload, and SKF_NET_OFF the IP header. A load past the end returns index 0.
    Program(Vec<Instruction>),
    /// An eBPF program that the caller loaded, of type SK_REUSEPORT or SOCKET_FILTER.
    Ebpf(Arc<OwnedFd>),
}

/// An instruction of classic BPF: Linux's `sock_filter`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are named as in linux/filter.h")]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

impl fmt::Debug for Instruction {
    /// As the C headers write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, jt, jf, k } = self;
        write!(f, "{{ {code:#04x}, {jt}, {jf}, {k:#x} }}")
    }
}

/// Where the number of a member stands in a datagram: one byte, or two in network order.
///
/// Datagrams that are too short, or have a number that no member has, are left to the hash. The
/// numbers are those of one group that was opened new: two processes cannot share a port by them.
///
/// ```
/// use reuseport::{ConnectionIds, Steering};
///
/// // A server that puts its member's number into the first byte of its QUIC connection ids.
/// let steering = Steering::ConnectionIds(ConnectionIds::quic());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionIds {
    layout: Layout,
    two_bytes: bool,
}

impl ConnectionIds {
    /// The first byte of the QUIC connection id that the server gave out.
    ///
    /// It stands at byte 1 of a short header and behind the length of a long one (RFC 9000, section
    /// 17). In Initial and 0-RTT packets the client may have chosen it, so they are left to the
    /// hash, which sends all packets of one client's port to one member.
    #[must_use]
    pub const fn quic() -> Self {
        Self {
            layout: Layout::Quic(0),
            two_bytes: false,
        }
    }

    /// The byte at that offset of each datagram.
    #[must_use]
    pub const fn at(offset: u16) -> Self {
        Self {
            layout: Layout::At(offset as u32),
            two_bytes: false,
        }
    }

    /// So many bytes further on.
    #[must_use]
    pub const fn skip(mut self, bytes: u8) -> Self {
        match &mut self.layout {
            Layout::At(at) | Layout::Quic(at) => *at += bytes as u32,
        }
        self
    }

    /// Two bytes, for more than 256 members.
    #[must_use]
    pub const fn two_bytes(mut self) -> Self {
        self.two_bytes = true;
        self
    }
}

impl Steering {
    /// Must the members' places in the kernel's group be known?
    pub(crate) fn needs_places(&self) -> bool {
        matches!(self, Self::Cpu | Self::Weights(_) | Self::ConnectionIds(_))
    }

    /// Says what no group of `n` members can do with it.
    pub(crate) fn check(&self, kind: Kind, n: usize) -> Result<(), String> {
        match self {
            Self::Weights(weights) if weights.len() != n => Err(format!(
                "there are {} weights for {n} members",
                weights.len()
            )),
            Self::Weights(weights) if weights.iter().all(|&weight| weight == 0) => {
                Err("all weights are 0".to_owned())
            }
            Self::ConnectionIds(_) if kind == Kind::Tcp => {
                Err("TCP connections have no connection ids".to_owned())
            }
            Self::ConnectionIds(ids) if !ids.two_bytes && n > 256 => {
                Err(format!("one byte does not number {n} members"))
            }
            _ => Ok(()),
        }
    }

    /// The processor of a member; members beyond the processors begin anew.
    pub(crate) fn cpu_of(member: usize, cpus: &[usize]) -> Option<usize> {
        cpus.get(member % cpus.len().max(1)).copied()
    }

    /// The program for members that stand in `places`, by the kernel's index.
    ///
    /// Members of the list have left when they are in no place. `stays` says who is to get what is
    /// new; where others stand or are to come, nothing `by_hash`, which would choose them.
    pub(crate) fn dispatch(
        &self,
        kind: Kind,
        places: &[usize],
        stays: impl Fn(usize) -> bool,
        by_hash: bool,
        cpus: &[usize],
    ) -> Result<Dispatch<'_>, String> {
        let stayers = || {
            let places = places.iter().copied().enumerate();
            places.filter(|&(_, member)| stays(member))
        };
        let equal = || {
            program::weighted(
                kind,
                &stayers().map(|(index, _)| (index, 1)).collect::<Vec<_>>(),
            )
        };
        let rest = |program| match by_hash {
            true => program,
            false => program::or_else(program, &equal()),
        };
        let program = match self {
            Self::Hash if by_hash => return Ok(Dispatch::Hash),
            Self::Ebpf(program) if by_hash => {
                return Ok(Dispatch::Ebpf(sys::borrow(&**program)));
            }
            Self::Program(program) if by_hash => program.clone(),
            Self::Hash | Self::Ebpf(_) | Self::Program(_) => equal(),
            Self::Cpu => {
                let indices: Vec<_> = stayers()
                    .filter_map(|(index, member)| Some((Self::cpu_of(member, cpus)?, index)))
                    .collect();
                rest(program::by_cpu(kind, &indices))
            }
            Self::Weights(weights) => {
                let share = |(index, member): (usize, usize)| {
                    (index, weights.get(member).copied().unwrap_or(0))
                };
                let shares: Vec<_> = stayers().map(share).collect();
                // All that had a weight have left.
                match shares.iter().all(|share| share.1 == 0) {
                    true if by_hash => return Ok(Dispatch::Hash),
                    true => equal(),
                    false => program::weighted(kind, &shares),
                }
            }
            Self::ConnectionIds(ids) => {
                // Those who leave keep the flows that they have.
                let places = places.iter().enumerate();
                let indices: Vec<_> = places
                    .map(|(index, &member)| (member as u32, index))
                    .collect();
                rest(program::by_number(ids.layout, ids.two_bytes, &indices))
            }
        };
        match program.len() {
            1..=program::LONGEST => Ok(Dispatch::Program(program)),
            len => Err(format!(
                "its program has {len} instructions, and the kernel takes 1 to {}",
                program::LONGEST
            )),
        }
    }
}
