mod bpf;
mod pace;
mod policy;
mod slots;
mod spread;

use std::sync::Arc;

pub(crate) use policy::{EVEN, NEWCOMER, Policy, Seen};
pub use spread::Spread;

use crate::sys::Instruction;
use crate::sys::{self, Dispatch, Kind, OwnedFd};
use bpf::Layout;

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
    /// that the thread which opens the group may use. Where there are more members than processors,
    /// several share one.
    ///
    /// For workers that are pinned, each to its processor, so that a connection stays where its
    /// packets arrive. It is worse than `Hash` where fewer processors handle packets than there are
    /// members, as with a network card of one queue: then one member gets everything.
    ///
    /// A packet that another processor handled goes by the hash.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Options, Std, Steering};
    /// use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    ///
    /// let may = sched_getaffinity(None)?;
    /// let cores = (0..CpuSet::MAX_CPU).filter(|&core| may.is_set(core));
    /// let group = Options::new().steering(Steering::Cpu).group("[::]:443", may.count() as usize)?;
    /// for (member, core) in group.into_iter().zip(cores) {
    ///     std::thread::spawn(move || {
    ///         let mut own = CpuSet::new();
    ///         own.set(core);
    ///         sched_setaffinity(None, &own).expect("it may use the processor");
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
    /// A classic BPF program of the caller's, 1 to 4,096 instructions, that returns a place of the
    /// group: see [`Roster::places`](crate::Roster::places).
    ///
    /// Offset 0 is the payload, and SKF_NET_OFF the IP header. A load past the end returns place 0.
    Program(Vec<Instruction>),
    /// An eBPF program that the caller loaded, of type SK_REUSEPORT or SOCKET_FILTER.
    Ebpf(Arc<OwnedFd>),
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
    ///
    /// ```
    /// use reuseport::{ConnectionIds, Steering};
    ///
    /// let steering = Steering::ConnectionIds(ConnectionIds::quic());
    /// ```
    #[must_use]
    pub const fn quic() -> Self {
        Self {
            layout: Layout::Quic(0),
            two_bytes: false,
        }
    }

    /// The byte at that offset of each datagram.
    ///
    /// ```
    /// use reuseport::{ConnectionIds, Steering};
    ///
    /// let steering = Steering::ConnectionIds(ConnectionIds::at(8));
    /// ```
    #[must_use]
    pub const fn at(offset: u16) -> Self {
        Self {
            layout: Layout::At(offset as u32),
            two_bytes: false,
        }
    }

    /// So many bytes further on.
    ///
    /// ```
    /// use reuseport::{ConnectionIds, Steering};
    ///
    /// let steering = Steering::ConnectionIds(ConnectionIds::quic().skip(2));
    /// ```
    #[must_use]
    pub const fn skip(mut self, bytes: u8) -> Self {
        match &mut self.layout {
            Layout::At(at) | Layout::Quic(at) => *at += bytes as u32,
        }
        self
    }

    /// Two bytes, for more than 256 members.
    ///
    /// ```
    /// use reuseport::{ConnectionIds, Steering};
    ///
    /// let steering = Steering::ConnectionIds(ConnectionIds::quic().two_bytes());
    /// ```
    #[must_use]
    pub const fn two_bytes(mut self) -> Self {
        self.two_bytes = true;
        self
    }
}

impl Steering {
    /// Says what no group whose members have numbers below `n` can do with it.
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

    /// Whether it depends on which member stands where, and not only on where members stand.
    pub(crate) fn needs_numbers(&self) -> bool {
        matches!(self, Self::Cpu | Self::Weights(_) | Self::ConnectionIds(_))
    }

    /// Whether the crate writes the program, and no caller does.
    pub(crate) fn is_ours(&self) -> bool {
        !matches!(self, Self::Program(_) | Self::Ebpf(_))
    }

    /// Whether a flow of datagrams is bound to its member, also when that is leaving.
    pub(crate) fn keeps_flows(&self) -> bool {
        matches!(self, Self::ConnectionIds(_))
    }

    /// The share of a member among those that get what is new.
    pub(crate) fn weight(&self, number: Option<usize>) -> u32 {
        match (self, number) {
            (Self::Weights(weights), Some(number)) => weights.get(number).copied().unwrap_or(0),
            _ => 1,
        }
    }

    /// Why the loads of the members cannot be seen to; none where they can.
    pub(crate) fn cannot_balance(&self, kind: Kind) -> Option<&'static str> {
        match self {
            Self::Program(_) | Self::Ebpf(_) => {
                Some("it is steered by a program of the caller's, which alone decides")
            }
            Self::ConnectionIds(_) => None,
            _ if kind == Kind::Udp => Some(
                "a datagram does not tell whether its flow is new, so that flows would move to other \
                 members; with connection ids they stay",
            ),
            Self::Hash | Self::Cpu | Self::Weights(_) => None,
        }
    }

    /// How the kernel is told to choose among members that stand in these places.
    ///
    /// `whole` says that all who stand in the group get what is new; only then may the kernel's hash
    /// decide, which chooses among all. `by_load` says that the members' shares count, and `part` how much of all
    /// those get that stand apart.
    pub(crate) fn dispatch(
        &self,
        kind: Kind,
        seats: &[Seat],
        whole: bool,
        cpus: &[usize],
        by_load: bool,
        part: f64,
    ) -> Result<Dispatch<'_>, String> {
        let apart = seats.iter().filter(|seat| seat.apart);
        let apart: Vec<(usize, u32)> = apart.map(|seat| (seat.place, 1)).collect();
        let split = |rest: Vec<Instruction>| match apart.is_empty() {
            true => rest,
            false => bpf::split(kind, part, &apart, rest),
        };
        let getting = || seats.iter().filter(|seat| seat.gets_new);
        // Of TCP, equal shares are what the hash does.
        let is_even = kind == Kind::Tcp && is_even(getting().map(|seat| seat.share));
        let whole = whole && (!by_load || is_even);
        let equal = || bpf::weighted(kind, &shared(getting(), |_| 1));
        let rest = |program| match whole {
            true => program,
            false => bpf::or_else(program, &equal()),
        };
        let program = match self {
            Self::ConnectionIds(ids) => {
                // Those who leave keep the flows that they have.
                let place = |seat: &Seat| Some((u32::try_from(seat.number?).ok()?, seat.place));
                let places: Vec<_> = seats.iter().filter_map(place).collect();
                let known = bpf::by_number(ids.layout, ids.two_bytes, &places);
                match whole {
                    true => known,
                    false => {
                        let others = match by_load {
                            true => bpf::by_slot(&slots::owners(
                                getting(),
                                bpf::slots_beside(known.len()),
                            )),
                            false => equal(),
                        };
                        bpf::or_else(known, &split(others))
                    }
                }
            }
            Self::Hash if whole => return Ok(Dispatch::Hash),
            Self::Ebpf(program) if whole => return Ok(Dispatch::Ebpf(sys::borrow(&**program))),
            Self::Program(program) if whole => program.clone(),
            Self::Hash | Self::Ebpf(_) | Self::Program(_) => split(equal()),
            Self::Cpu => {
                let share = |seat: &Seat| (seat.place, seat.share);
                let cpu = |seat: &Seat| Some((Self::cpu_of(seat.number?, cpus)?, share(seat)));
                let places: Vec<_> = getting().filter_map(cpu).collect();
                split(rest(bpf::by_cpu(kind, &places)))
            }
            Self::Weights(_) => {
                let shares = shared(getting(), |seat| self.weight(seat.number));
                split(bpf::weighted(kind, &shares))
            }
        };
        match program.len() {
            1..=bpf::LONGEST => Ok(Dispatch::Program(program)),
            len => Err(format!(
                "its program has {len} instructions, and the kernel takes 1 to {}",
                bpf::LONGEST
            )),
        }
    }

    /// The processor of a member; members beyond the processors begin anew.
    fn cpu_of(member: usize, cpus: &[usize]) -> Option<usize> {
        cpus.get(member % cpus.len().max(1)).copied()
    }
}

/// Where a member stands in the kernel's group, for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) place: usize,
    /// Its number in this group; none where only the place counts.
    pub(crate) number: Option<usize>,
    /// Whether new connections and flows are for it.
    pub(crate) gets_new: bool,
    /// Whether it is the next process's, and gets of the part that is given to that.
    pub(crate) apart: bool,
    /// What its load leaves it of that, beside the others; the same for all where loads do not count.
    pub(crate) share: u32,
}

/// Whether these are all the same.
pub(crate) fn is_even(mut shares: impl Iterator<Item = u32>) -> bool {
    let first = shares.next();
    shares.all(|share| Some(share) == first)
}

/// The place of each, and its weight times its share, cut to 32 bits and none of them to nothing.
///
/// Where all that had both have left, the weights count alone, and where none has a weight, all are
/// alike.
fn shared<'a>(
    seats: impl Iterator<Item = &'a Seat>,
    weight: impl Fn(&Seat) -> u32,
) -> Vec<(usize, u32)> {
    let seats: Vec<_> = seats.collect();
    let ways: [&dyn Fn(&Seat) -> u64; 3] = [
        &|seat| u64::from(weight(seat)) * u64::from(seat.share),
        &|seat| weight(seat).into(),
        &|_| 1,
    ];
    for way in ways {
        let most = seats.iter().map(|seat| way(seat)).max().unwrap_or(0);
        let too_many_bits = (64 - most.leading_zeros()).saturating_sub(32);
        let cut = |seat: &&Seat| match way(seat) {
            0 => (seat.place, 0),
            share => (seat.place, (share >> too_many_bits).max(1) as u32),
        };
        if most > 0 {
            return seats.iter().map(cut).collect();
        }
    }
    Vec::new()
}
