//! The thread of a generation: it hears what its peers and its program say, hands that to the
//! [`Machine`], and carries out what that answers.

mod act;
mod count;
mod next;
mod peers;
mod share;
mod together;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Command, Core};
use super::machine::{Event, Machine, Mode, Peer, State};
use super::wire::Message;
use crate::error::Error;
use crate::group::{Id, Remains, Shared};
use crate::sys::{self, Kind, OwnedFd, meet::Rendezvous};
use share::Asks;

/// How long a message may take that has begun: the other side answers at once, unless it hangs.
pub(super) const MESSAGE: Duration = Duration::from_secs(5);

/// How long sockets are looked for that a successor may have left behind.
const WARY: Duration = Duration::from_secs(5);

/// How long a successor has to take the listeners of a process that has ended out of the group.
const WAKE: Duration = Duration::from_secs(2);

/// Until descriptors or memory are tried for again.
const RETRY: Duration = Duration::from_millis(10);

/// How many successors wait to be heard; others wait in the rendezvous' backlog.
const ARRIVALS: usize = 16;

#[derive(Debug)]
pub(super) struct Driver {
    pub(super) machine: Machine,
    /// When its state began.
    since: Instant,
    /// When the program's own time for the takeover is over.
    deadline: Option<Instant>,
    predecessor: Option<Arc<OwnedFd>>,
    successor: Option<Caller>,
    /// Whether it has said that it is over, and not yet so of the other addresses.
    is_held: bool,
    rendezvous: Option<Rendezvous>,
    arrivals: Vec<Caller>,
    /// What the predecessor, or this process when it stops, has still to accept or to read.
    remains: Vec<(Id, Remains)>,
    /// Whether no packet can come to these any more.
    is_past: bool,
    /// When they are counted next.
    count_at: Instant,
    left: u32,
    /// What came with the word that the machine is about to hear.
    message: Option<Message>,
    /// Why the last action failed, for the program or the peer that asked for it.
    error: Option<Error>,
    superseded_by: Option<u32>,
    wary_until: Option<Instant>,
    has_let_go: bool,
    /// Whether anything has come to this process.
    has_served: bool,
    /// The parts of what is new that the program has asked for.
    asks: Asks,
    /// Whether the last handle waits until this process gets nothing new.
    is_dropping: bool,
    /// When the program is told that fresh connections have had their time.
    shutdown_at: Option<Instant>,
    /// Listeners of this process at which workers may wait in the kernel, and when that is ended.
    waited_for: Vec<Arc<OwnedFd>>,
    wake_at: Option<Instant>,
}

/// A process that has connected.
#[derive(Debug)]
struct Caller {
    line: Arc<OwnedFd>,
    pid: Option<u32>,
    since: Instant,
    /// Whether it has said hello.
    is_heard: bool,
}

/// What the thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Rendezvous,
    Line(Peer),
    Arrival,
}

impl Driver {
    pub(super) fn new(
        machine: Machine,
        predecessor: Option<OwnedFd>,
        rendezvous: Option<Rendezvous>,
    ) -> Self {
        let now = Instant::now();
        let has_served = predecessor.is_none();
        Self {
            machine,
            since: now,
            deadline: None,
            predecessor: predecessor.map(Arc::new),
            successor: None,
            is_held: false,
            rendezvous,
            arrivals: Vec::new(),
            remains: Vec::new(),
            is_past: false,
            count_at: now,
            left: 0,
            message: None,
            error: None,
            superseded_by: None,
            wary_until: None,
            has_let_go: false,
            has_served,
            asks: Asks::default(),
            is_dropping: false,
            shutdown_at: None,
            waited_for: Vec::new(),
            wake_at: None,
        }
    }
}

/// Runs until the generation is over.
pub(super) fn run(core: &Arc<Core>) {
    while let Some(bell) = core.bell() {
        let (sources, until) = {
            let _work = sys::fork::work();
            let driver = core.driver();
            let next = core.attempt().and_then(|attempt| attempt.until());
            let until = driver.until().into_iter().chain(next).min();
            (driver.sources(), until)
        };
        let fds = sources.iter().map(|(_, fd)| sys::borrow(&**fd));
        let fds: Vec<_> = std::iter::once(sys::borrow(&*bell)).chain(fds).collect();
        let ready = sys::wait::poll(&fds, until).unwrap_or_else(|_| {
            // There may be no memory for it, which changes; the program and the clock are heard all the same.
            std::thread::sleep(RETRY);
            Vec::new()
        });
        let _work = sys::fork::work();
        let mut ready = ready.into_iter();
        if ready.next() == Some(true) && bell.clear().is_err() {
            // It goes on ringing.
            std::thread::sleep(RETRY);
        }
        let mut driver = core.driver();
        // What has been said counts before the clock does.
        for ((source, fd), _) in sources.iter().zip(ready).filter(|(_, is_ready)| *is_ready) {
            driver.receive(core, *source, fd);
        }
        // What closes the rendezvous must be the last that has it.
        drop(sources);
        for command in core.commands() {
            driver.command(core, command);
        }
        driver.tick(core);
        driver.attend(core);
        if driver.machine.is_over() {
            driver.hang_up();
            let waits = driver.shutdown_at.is_some() || driver.wake_at.is_some();
            let is_done = !waits && core.attempt().is_none();
            if is_done && core.close() {
                return;
            }
        }
    }
}

impl Driver {
    fn hang_up(&mut self) {
        self.predecessor = None;
        self.successor = None;
        self.rendezvous = None;
        self.arrivals.clear();
        self.remains.clear();
    }

    fn sources(&self) -> Vec<(Source, Arc<OwnedFd>)> {
        let mut sources = Vec::new();
        if let Some(fd) = &self.predecessor {
            sources.push((Source::Line(Peer::Predecessor), Arc::clone(fd)));
        }
        if let Some(caller) = &self.successor {
            sources.push((Source::Line(Peer::Successor), Arc::clone(&caller.line)));
        }
        // Beside the predecessor, that is who answers.
        let answers = !matches!(
            self.machine.state(),
            State::Beside
                | State::Returning
                | State::Orphan
                | State::Asking
                | State::Passing
                | State::Letting
        );
        let answers = answers && (!self.machine.gives_up() || self.predecessor.is_none());
        if let Some(rendezvous) = self
            .rendezvous
            .as_ref()
            .filter(|_| answers && self.arrivals.len() < ARRIVALS)
        {
            sources.push((Source::Rendezvous, Arc::clone(rendezvous.socket())));
        }
        for caller in &self.arrivals {
            sources.push((Source::Arrival, Arc::clone(&caller.line)));
        }
        sources
    }

    /// When something has to be looked at, whatever is heard until then.
    fn until(&self) -> Option<Instant> {
        let state = self.machine.state();
        let now = Instant::now();
        let in_a_while = |millis| Some(now + Duration::from_millis(millis));
        let waits = [
            self.machine
                .patience()
                .and_then(|patience| self.since.checked_add(patience)),
            self.machine.counts().then_some(self.count_at),
            self.deadline.filter(|_| self.machine.counts()),
            self.shutdown_at,
            self.wake_at,
            self.asks.until(),
            self.members_at(),
            self.wary_until.and_then(|_| in_a_while(10)),
            // Owners close their sockets without a word; it is looked ever more seldom.
            (matches!(state, State::Letting | State::Closing) && !self.has_let_go).then(|| {
                now + (self.since.elapsed() / 10)
                    .clamp(Duration::from_millis(1), Duration::from_millis(50))
            }),
            (!self.arrivals.is_empty()).then_some(now + Duration::from_millis(100)),
        ];
        waits.into_iter().flatten().min()
    }

    fn command(&mut self, core: &Core, command: Command) {
        match command {
            Command::TakeOver(until) => {
                self.deadline = until;
                self.handle(core, Event::TakeOver);
            }
            Command::Stop => {
                self.stop_next(core);
                self.handle(core, Event::Stop);
            }
            Command::Drop => {
                self.handle(core, Event::Dropped);
                self.is_dropping = true;
            }
            Command::Share(part, answer) => self.ask_for_share(core, part, answer),
            Command::Look => {}
        }
    }

    /// What is due by the clock.
    fn tick(&mut self, core: &Core) {
        let now = Instant::now();
        let is_late = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if self.machine.counts() && (now >= self.count_at || is_late(self.deadline)) {
            self.count(core);
        }
        if is_late(self.shutdown_at) {
            self.shutdown_at = None;
            core.shutdown.put(());
        }
        if is_late(self.wake_at) {
            self.wake();
        }
        let patience = self.machine.patience();
        if is_late(patience.and_then(|patience| self.since.checked_add(patience))) {
            self.handle(core, Event::Expired);
        }
        if self.is_dropping && self.machine.state() != State::Returning {
            self.is_dropping = false;
            core.dropped.put(());
        }
        self.see_to_share(core);
        self.see_to_members(core);
        let is_let = matches!(self.machine.state(), State::Letting | State::Closing);
        if is_let && !self.has_let_go {
            let mut state = core.shared.state();
            let ends = core.kind == Kind::Tcp && !state.keeps_flows() && !state.is_one_queue();
            let has_let_go = ends && state.is_blocking() || !state.is_open();
            drop(state);
            if has_let_go {
                self.has_let_go = true;
                self.handle(core, Event::LetGo);
            }
        }
        if let Some(until) = self.wary_until {
            let is_wary = core.shared.state().is_wary(now >= until);
            self.wary_until = self.wary_until.filter(|_| is_wary);
        }
        self.heed(core);
        self.arrivals
            .retain(|caller| caller.is_heard || caller.since.elapsed() < MESSAGE);
        self.admit_arrival(core);
    }

    /// Whether a successor that has come is to be heard of.
    pub(super) fn takes_arrival(&self, core: &Core) -> bool {
        // Nothing new can come to the one queue of a group that stops.
        let is_closing = core.is_one_queue() && self.machine.state() == State::Stopping;
        !is_closing && self.machine.takes_arrival(self.since.elapsed())
    }

    /// Hears of the successor that has waited longest, when it is its turn.
    fn admit_arrival(&mut self, core: &Core) {
        // While it stops, the one that is there is not given up for another.
        let is_taken = self.machine.state() == State::Stopping && self.successor.is_some();
        while !is_taken
            && self.takes_arrival(core)
            && self.arrivals.iter().any(|caller| caller.is_heard)
        {
            let before = self.machine.state();
            if before == State::Parting {
                let mut state = core.shared.state();
                if state.is_crowded() {
                    return;
                }
                let waits = state.is_waited_for();
                drop(state);
                if waits {
                    // Their removal is what ends the waiting.
                    self.handle(core, Event::Expired);
                    continue;
                }
            }
            self.handle(core, Event::Arrived);
            if matches!(before, State::Lending | State::Stopping) || self.machine.state() == before
            {
                return;
            }
        }
    }

    /// Hands an event to the machine, and carries out what is due.
    fn handle(&mut self, core: &Core, event: Event) {
        let mut event = Some(event);
        while let Some(this) = event.take() {
            let before = self.machine.state();
            let actions = self.machine.on(this);
            if self.machine.state() != before || this == Event::Arrived {
                self.since = Instant::now();
            }
            for action in actions {
                if let Err(next) = self.act(core, action) {
                    event = Some(next);
                    break;
                }
            }
        }
        self.message = None;
        self.error = None;
        if !self.machine.counts() {
            // What is left of them is lost, or the predecessor's to say.
            self.remains.clear();
        }
    }
}

/// How the predecessor's members are emptied.
pub(super) fn mode(shared: &Shared) -> Mode {
    let mut state = shared.state();
    let stays = state.keeps_flows() || !state.can_hide();
    match state.kind() {
        // Nothing has to be emptied, or taken out of the group.
        _ if state.is_one_queue() => Mode::Connections,
        Kind::Tcp => Mode::Connections,
        Kind::Udp if stays => Mode::Flows,
        Kind::Udp => Mode::Datagrams,
    }
}
