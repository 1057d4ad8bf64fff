//! The control step that sees to the load of a group's members.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::balance::Stepped;
use super::roster::Roster;
use super::shared::Shared;
use super::socket::Socket;
use super::table::Id;
use crate::error::Error;
use crate::steering::Policy;
use crate::sys::{self, Kind};
use crate::trace;

/// How long a member may leave connections waiting, and accept none, before it is stuck.
const PATIENCE: Duration = Duration::from_millis(100);

/// How much of a UDP socket's queue counts as one datagram: the kernel takes at least 768 bytes for the
/// smallest.
const DATAGRAM: u32 = 4096;

/// Sees to the load of a group's members: who is busy gets less of what is new, and who is stuck nothing.
///
/// The kernel's own choice is blind: a connection waits in the queue of a worker that is busy or stuck, while
/// others are idle. This has a [`step`](Self::step), to be called every few milliseconds from any loop, or by
/// [`spawn`](Self::spawn)'s thread. A step reads what waits in each member's queue, and what the workers
/// [publish](crate::Load); if that has changed, it changes the weights by which the kernel chooses. It needs no
/// privilege, and no help from workers that publish nothing. No connection is lost by it, and none is moved that
/// is in a queue.
///
/// - The choice is by chance, with weights, among all that are able: what is seen is one step old, and the
///   emptiest member must not get everything.
/// - A member is *stuck* when connections have waited in its queue for 100 ms ([`patience`](Self::patience)) and it
///   was not seen to accept one: its worker has [held](crate::Load::hold) none, and at no step was its queue shorter
///   than at the step before. So a worker that publishes nothing, and to which more comes all the time than it
///   accepts, counts as stuck too. It gets nothing new until it is seen to accept, unless all are stuck.
///   Both are told as events, with the feature `tracing`, and [`Balance::stuck`] has them.
/// - Where workers [hold](crate::Load::hold) their connections, the classic [engine](Engine) gives less to one that
///   takes several times as long for each as most do, also while it is idle: a quarter of its share at the least.
///   What it holds all the time, as connections that are open for hours, does not count for that; one that has just
///   come to stay may count for 512 steps.
/// - A member that [joins](Roster::join) gets little at first, and all that it is due 64 steps later.
/// - [`Steering`](crate::Steering) still holds: among members that are equally loaded each gets its weight, and
///   under `Cpu` a connection goes to a member of its processor unless that is stuck.
/// - Members that leave get nothing new. A [generation](crate::Generation) is balanced by the process that
///   decides on the group: each has its own `Balancer`, whose steps do nothing before it has taken over, and
///   nothing after another has.
/// - Datagrams have no beginning that the kernel could see. So a group of UDP is balanced only under
///   [connection ids](crate::Steering::ConnectionIds): what has an id stays with its member. Of the clients that
///   have none yet those move whose own member gets less than before, or that go to a member which gets more.
///
/// - With the feature `ebpf`, and the privilege for it, the kernel sees what workers publish as it is when a
///   connection comes: see [`Engine::Ebpf`]. A step then finds out what waits, and who is stuck.
///
/// Keep it, or the [`Balancing`](crate::Balancing) that it becomes. Dropping it ends it: the group is steered as if
/// there had been none.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use reuseport::Options;
///
/// let group = Options::new().group("localhost:0", 4)?;
/// let mut balancer = group.roster().balance()?;
/// // Nothing waits anywhere.
/// let balance = balancer.step()?;
/// assert!(balance.stuck.is_empty());
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "dropping it ends the balancing"]
pub struct Balancer {
    pub(super) shared: Arc<Shared>,
    queues: sys::Queues,
    members: Vec<sys::Weak>,
    /// What waits, by inode; both are kept for their memory.
    waiting: HashMap<u64, u32>,
    policy: Policy<Id>,
    engine: Engine,
    start: Instant,
    attaches: u64,
    addr: SocketAddr,
    /// A child that was forked has a copy of this, and must not use it.
    process: u32,
}

/// What a step of a [`Balancer`] has seen.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use reuseport::Options;
///
/// let group = Options::new().group("localhost:0", 2)?;
/// let balance = group.roster().balance()?.step()?;
/// assert!(balance.decides);
/// println!("the kernel is told by {:?}", balance.engine);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Balance {
    /// The numbers of the members that are stuck, in ascending order.
    pub stuck: Vec<usize>,
    /// How many programs this `Balancer` has attached until now.
    pub attaches: u64,
    /// Whether this process decides on the group: before a generation has taken over, and after another has,
    /// a step does nothing.
    pub decides: bool,
    /// How the kernel is told.
    pub engine: Engine,
}

/// How the kernel is told of the members' loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// By a classic BPF program, which a step replaces: the kernel knows the loads of the last step.
    Classic,
    /// By an eBPF program, which sees what the workers publish as it is when a connection comes: with the feature
    /// `ebpf`, on Linux 5.5 or later, where the thread that asks for the first [`Load`](crate::Load), or makes the
    /// first step, may load one (CAP_BPF).
    ///
    /// Of two members that are drawn by their weights the less loaded gets it, or another that is idle. A connection
    /// that was given to a member counts from that moment until its worker [holds](crate::Load::hold) it, or a step sees
    /// that it does not wait. It is for TCP, steered by the hash or by weights, with 2 to 1,024 members. While
    /// members leave, or another process takes over or has sockets in the group, a classic program stands in.
    /// Where the system refuses the program at first, or refuses a member three steps in a row, the group keeps the
    /// classic one. Where the process has no descriptor left, or the system no memory, each step tries again; but a
    /// member whose [`Load`](crate::Load) was asked for meanwhile has it where no program sees it, and so the group
    /// keeps the classic one as long as that member is there.
    Ebpf,
}

impl<S: Socket> Roster<S> {
    /// Begins to see to the load of the members: see [`Balancer`].
    ///
    /// The kernel chooses as before until its first step, or until a member joins or leaves. As long as the `Balancer`
    /// is there, [`steer`](Self::steer) refuses what it could not balance.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use std::time::Duration;
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 4)?;
    /// let balancing = group.roster().balance()?.spawn(Duration::from_millis(5))?;
    /// // The workers serve as long as `balancing` is there.
    /// # drop(balancing);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) where another `Balancer` does so, where all members have
    /// [one queue](crate::Spread::Queue), where a program of the caller's steers the group, and for UDP without
    /// connection ids. [`Unsupported`](io::ErrorKind::Unsupported) on systems other than Linux, which
    /// cannot be told whom to choose. What the system answers if it does not tell of its queues, or the
    /// process has no descriptor left, of which this takes one.
    pub fn balance(&self) -> Result<Balancer, Error> {
        Balancer::new(self.shared()).inspect_err(trace::refused)
    }
}

impl Balancer {
    fn new(shared: Arc<Shared>) -> Result<Self, Error> {
        shared.state().begin_balancing()?;
        // From here on dropping it ends what has begun.
        let (addr, kind) = {
            let state = shared.state();
            (state.addr(), state.kind())
        };
        let unit = match kind {
            Kind::Tcp => 1,
            Kind::Udp => DATAGRAM,
        };
        let queues = sys::Queues::open(kind, addr);
        let queues = match queues {
            Ok(queues) => queues,
            Err(error) => {
                let refused = unseen(&shared, error);
                // Nothing has been programmed yet.
                let _ = shared.state().end_balancing();
                return Err(refused);
            }
        };
        Ok(Self {
            shared,
            queues,
            members: Vec::new(),
            waiting: HashMap::new(),
            policy: Policy::new(PATIENCE, unit),
            engine: Engine::Ebpf,
            start: Instant::now(),
            attaches: 0,
            addr,
            process: std::process::id(),
        })
    }

    /// How long a member may leave connections waiting and accept none before it is stuck, instead of 100 ms.
    ///
    /// A member that has much to do for one connection, and accepts no other meanwhile, is not stuck: take a
    /// longer time than that. At least four steps must have seen it.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use std::time::Duration;
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 4)?;
    /// let mut balancer = group.roster().balance()?.patience(Duration::from_secs(1));
    /// balancer.step()?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use = "dropping it ends it"]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.policy.patience = patience;
        self
    }

    /// How the kernel is to be told, instead of the best way that there is.
    ///
    /// [`Engine::Ebpf`] is taken where it can be had, and `Classic` otherwise; [`Balance::engine`] says which it was
    /// in a step.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Engine, Options};
    ///
    /// let group = Options::new().group("localhost:0", 4)?;
    /// let mut balancer = group.roster().balance()?.engine(Engine::Classic);
    /// assert_eq!(balancer.step()?.engine, Engine::Classic);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use = "dropping it ends it"]
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// Sees who is busy and who is stuck, and tells the kernel if that has changed.
    ///
    /// Call it every few milliseconds. With 5 ms, what comes to a worker within 5 ms of its getting stuck waits
    /// there; with 1 ms less does, and the steps cost more. It does not wait for anything.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use std::net::TcpStream;
    /// use std::time::Duration;
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("127.0.0.1:0", 2)?;
    /// let mut balancer = group.roster().balance()?.patience(Duration::ZERO);
    /// // No worker accepts this one.
    /// let client = TcpStream::connect(group.local_addr())?;
    /// let stuck = loop {
    ///     let balance = balancer.step()?;
    ///     if let [stuck] = balance.stuck[..] {
    ///         break stuck;
    ///     }
    /// };
    /// // From here on the other one gets everything.
    /// # let other: Vec<_> = (0..16).map(|_| TcpStream::connect(group.local_addr())).collect::<Result<_, _>>()?;
    /// let waiting = |member: usize| reuseport::queue(group.iter().nth(member).unwrap());
    /// assert_eq!(waiting(stuck)?.waiting, 1);
    /// # assert_eq!(waiting(1 - stuck)?.waiting, 16);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What the system answers if it does not tell of its queues any more, or takes no program. As
    /// [`Group::steer`](crate::Group::steer) where the members' places are not known. The group is then steered as
    /// before, and the next step tries again. [`InvalidInput`](io::ErrorKind::InvalidInput) in a child that was
    /// forked, which has nothing to decide.
    pub fn step(&mut self) -> Result<Balance, Error> {
        self.try_step().inspect_err(trace::refused)
    }

    pub(super) fn try_step(&mut self) -> Result<Balance, Error> {
        if self.process != std::process::id() {
            return Err(forked(self.addr));
        }
        // Before another process decides, and after, there is nothing to see.
        let decides = self.shared.state().watch(&mut self.members);
        let stepped = match decides {
            true => self.see()?,
            false => Stepped::default(),
        };
        self.attaches += u64::from(stepped.attached);
        let mut stuck = stepped.stuck;
        stuck.sort_unstable();
        Ok(Balance {
            stuck,
            attaches: self.attaches,
            decides: stepped.decides,
            engine: match stepped.sees_loads {
                true => Engine::Ebpf,
                false => Engine::Classic,
            },
        })
    }
}

impl Balancer {
    fn see(&mut self) -> Result<Stepped, Error> {
        let waiting = &mut self.waiting;
        waiting.clear();
        let read = self.queues.read(&self.members, |inode, n| {
            waiting.insert(inode, n);
        });
        let are_all = read.map_err(|error| unseen(&self.shared, error))?;
        let now = self.start.elapsed();
        let mut state = self.shared.state();
        let by_ebpf = self.engine == Engine::Ebpf;
        state.balance(&mut self.policy, now, waiting, are_all, by_ebpf)
    }
}

/// Why a child that was forked does not balance.
pub(super) fn forked(addr: SocketAddr) -> Error {
    let what = format!("cannot balance the group on {addr}");
    Error::invalid(what, "this process was forked from the one that does").at(addr)
}

fn unseen(shared: &Shared, error: io::Error) -> Error {
    let addr = shared.state().addr();
    let what = format!("cannot see the queues of the group on {addr}");
    let why = sys::resource_reason(&error);
    Error::system(what, error).at(addr).why(why)
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        let ended = self.shared.state().end_balancing();
        // Nothing waits for an answer.
        let _ = ended.inspect_err(trace::refused);
    }
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer")
            .field("patience", &self.policy.patience)
            .field("attaches", &self.attaches)
            .finish_non_exhaustive()
    }
}
