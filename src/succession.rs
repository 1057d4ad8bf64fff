//! How one process relieves another: both sides, and the threads that do the waiting.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::emptying::{Emptying, FAREWELL, PAUSE};
use crate::handover::{Parcel, Word, check_peer, hear, say};
use crate::opening::{Opening, Purpose};
use crate::roster::Shared;
use crate::slot::Slot;
use crate::sys::{self, Kind, OwnedFd, Weak, meet, pass};
use crate::{
    Error, Generation, Group, Member, Options, Promise, Roster, Socket, Spread, Steering, ToAddr,
    group, trace,
};

/// How long the next process waits for an answer of the one before: another may be relieving it,
/// which ends by the time a handshake with a vanished client does.
const PATIENCE: Duration = Duration::from_secs(75);

/// What is no question of patience, because the end of a process is noticed.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[derive(Debug)]
pub(crate) struct Succession {
    roster: Arc<Shared>,
    addr: SocketAddr,
    promise: Promise,
    /// Where the next process comes, until another answers it: who keeps a descriptor of it and
    /// does not answer keeps the next process waiting.
    door: Mutex<Option<Arc<OwnedFd>>>,
    elder: Option<Elder>,
    begun: Mutex<Begun>,
    given_up: AtomicBool,
    /// Does this process wait for the next one, so that no other has the door?
    reigns: AtomicBool,
    pub(crate) taken: Slot<Result<u32, Error>>,
    pub(crate) relieved: Slot<()>,
}

/// Why the takeover has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    NotYet,
    /// It was asked for.
    Asked,
    /// The process before had died, and nobody would have served.
    Needed,
    /// Never: it is given up.
    Never,
}

/// The process before.
#[derive(Debug)]
struct Elder {
    line: OwnedFd,
    pid: u32,
    /// It has let its members go, or has died.
    gone: AtomicBool,
}

pub(crate) fn open<S: Socket>(
    options: &Options,
    addr: impl ToAddr,
    n: usize,
) -> Result<(Group<S>, Generation), Error> {
    let target = addr.target()?;
    let opening = Opening::new(options, S::KIND, target)?;
    let addr = opening.addr();
    let cannot = || format!("cannot open a generation on {addr}");
    let refuse = |why: &'static str| Err(Error::invalid(cannot(), why).at(addr));
    if addr.port() == 0 {
        return refuse("port 0 is another one each time");
    }
    if !sys::support().steers {
        let why = "this system cannot be told which member to choose";
        return Err(Error::refused(io::ErrorKind::Unsupported, cannot(), why).at(addr));
    }
    if options.spread.here() != Spread::Kernel {
        return refuse("its members have one queue together, and nothing to choose");
    }
    if n == 0 {
        return refuse("a group has at least one member");
    }
    let failed = |error: io::Error, why: &'static str| {
        let reason = pass::reason(&error);
        Error::system(cannot(), error)
            .at(addr)
            .why(Some(reason.unwrap_or(why)))
    };
    let name = opening.name();
    let until = Instant::now() + PATIENCE;
    loop {
        let patience = until.saturating_duration_since(Instant::now());
        match meet::connect(&name, patience) {
            Ok(line) => match ask(&line) {
                Ok(parcel) => return succeed(options, &opening, n, line, parcel),
                // It has been relieved or has died since it was asked.
                Err(error) if is_end(&error) && Instant::now() < until => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(failed(error, "the process before does not answer"));
                }
                Err(error) => {
                    return Err(failed(error, "the process before does not hand over"));
                }
            },
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                match meet::listen(&name) {
                    Ok(door) => {
                        // Others could not be handed over with it.
                        let options = options.clone().join(false);
                        let group = group::open(&options, target, n)?;
                        return Ok(first(group, door));
                    }
                    // Another was quicker.
                    Err(error)
                        if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until =>
                    {
                        thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => return Err(failed(error, "the next process could not find it")),
                }
            }
            Err(error) => return Err(failed(error, "the process before does not answer")),
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Asks the process before for its members.
fn ask(line: &OwnedFd) -> io::Result<Parcel> {
    check_peer(line)?;
    say(line, Word::Hello)?;
    let parcel = Parcel::receive(line)?;
    pass::set_timeout(sys::borrow(line), FOREVER)?;
    Ok(parcel)
}

fn first<S: Socket>(group: Group<S>, door: OwnedFd) -> (Group<S>, Generation) {
    let roster = group.roster().shared();
    let succession = Succession::new(roster, group.local_addr(), door, None);
    (group, Generation::new(Arc::new(succession)))
}

/// Opens the group beside that of the process before, which still gets everything.
fn succeed<S: Socket>(
    options: &Options,
    opening: &Opening<'_>,
    n: usize,
    line: OwnedFd,
    mut parcel: Parcel,
) -> Result<(Group<S>, Generation), Error> {
    let addr = parcel.check(S::KIND)?;
    let cannot = || format!("cannot take over {addr} from process {}", parcel.pid);
    if !opening.may_be(addr) {
        let why = format!("its group is on another address than {}", opening.addr());
        return Err(Error::invalid(cannot(), why).at(addr));
    }
    let Some(door) = parcel.extra.take() else {
        return Err(Error::invalid(cannot(), "it passed no place to meet").at(addr));
    };

    // Numbers stand in datagrams, where they tell the generations apart; else each counts from 0.
    let keeps_flows = matches!(options.steering, Steering::ConnectionIds(_));
    let pid = parcel.pid;
    let elders: Vec<_> = parcel
        .members
        .into_iter()
        .enumerate()
        .map(|(place, (number, fd))| match keeps_flows {
            true => (number, fd),
            false => (usize::MAX - place, fd),
        })
        .collect();
    let inodes: Vec<_> = elders
        .iter()
        .map(|(_, fd)| Weak::new(sys::borrow(fd)))
        .collect();
    let taken = |number: &usize| elders.iter().any(|(other, _)| other == number);
    let numbers: Vec<usize> = (0..).filter(|number| !taken(number)).take(n).collect();

    let roster = Roster::<S>::new(addr, 0, Spread::Kernel, true, options.clone());
    let shared = roster.shared();
    // Before its members are there, so that none of them gets anything.
    let end = numbers.last().map_or(0, |last| last + 1);
    shared.table().succeed(elders, end, &options.steering)?;
    let mut members = Vec::with_capacity(n);
    for (at, &number) in numbers.iter().enumerate() {
        let socket = S::from_socket(opening.open(Purpose::Join(at, n), false)?);
        shared.table().add(number, sys::borrow(&socket));
        members.push(Member::new(socket, number));
    }
    let own = members.iter().map(|member| Weak::new(sys::borrow(member)));
    let known: Vec<u64> = inodes
        .into_iter()
        .chain(own)
        .flatten()
        .map(|weak| weak.inode())
        .collect();
    if sys::has_stranger(S::KIND, &addr, &known) {
        let why = "a socket that neither of the two knows shares it too";
        return Err(Error::invalid(cannot(), why).at(addr));
    }

    let elder = Elder {
        line,
        pid,
        gone: AtomicBool::new(false),
    };
    let group = Group::of(addr, members, Spread::Kernel, roster);
    let succession = Arc::new(Succession::new(shared, addr, door, Some(elder)));
    let watching = Arc::clone(&succession);
    spawn("reuseport-watch", addr, move || watching.watch())?;
    Ok((group, Generation::new(succession)))
}

fn spawn(name: &str, addr: SocketAddr, f: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(f);
    started.map(drop).map_err(|error| {
        Error::system(
            format!("cannot start a thread for the generation on {addr}"),
            error,
        )
        .at(addr)
    })
}

impl Succession {
    fn new(roster: Arc<Shared>, addr: SocketAddr, door: OwnedFd, elder: Option<Elder>) -> Self {
        let promise = roster.table().promise();
        Self {
            roster,
            addr,
            promise,
            door: Mutex::new(Some(Arc::new(door))),
            elder,
            begun: Mutex::new(Begun::NotYet),
            given_up: AtomicBool::new(false),
            reigns: AtomicBool::new(false),
            taken: Slot::new(),
            relieved: Slot::new(),
        }
    }

    pub(crate) fn predecessor(&self) -> Option<u32> {
        self.elder.as_ref().map(|elder| elder.pid)
    }

    pub(crate) fn promise(&self) -> Promise {
        self.promise
    }

    fn invalid(&self, why: &'static str) -> Error {
        Error::invalid(format!("cannot take over {}", self.addr), why).at(self.addr)
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins unless it has; returns what was before.
    fn begin(&self, why: Begun) -> Begun {
        let mut begun = self.begun();
        let before = *begun;
        *begun = match (before, why) {
            (Begun::NotYet, _) => why,
            (Begun::Needed, Begun::Asked) => Begun::Asked,
            _ => before,
        };
        before
    }

    pub(crate) fn take_over(this: &Arc<Self>, deadline: Duration) -> Result<Arc<Self>, Error> {
        match this.begin(Begun::Asked) {
            Begun::NotYet => {}
            // It has taken over by itself, and who asks first is told how that went.
            Begun::Needed => return Ok(Arc::clone(this)),
            Begun::Asked | Begun::Never => return Err(this.invalid("it has been called before")),
        }
        let until = Instant::now().checked_add(deadline);
        let begin = || {
            if this.elder.is_some() {
                this.roster.table().take_over()?;
            }
            let taking = Arc::clone(this);
            spawn("reuseport-next", this.addr, move || {
                taking.relieve(until);
                taking.reign();
            })
        };
        match begin() {
            Ok(()) => Ok(Arc::clone(this)),
            Err(error) => {
                *this.begun() = Begun::NotYet;
                Err(error)
            }
        }
    }

    /// Ends with the [`Generation`]: lets the process before go on, or the next find nobody.
    pub(crate) fn end(&self) {
        self.given_up.store(true, Ordering::SeqCst);
        if self.begin(Begun::Never) == Begun::NotYet {
            // Of the process before, which goes on.
            drop(self.leave_door());
            if let Some(elder) = &self.elder {
                // The process before sees the end of the line.
                let _ = meet::close(sys::borrow(&elder.line));
                self.roster.table().give_up();
            }
        } else if self.reigns.load(Ordering::SeqCst) {
            self.close_door();
        }
    }

    fn door(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave_door(&self) -> Option<Arc<OwnedFd>> {
        self.door().take()
    }

    fn close_door(&self) {
        if let Some(door) = self.leave_door() {
            let _ = meet::close(sys::borrow(&*door));
        }
    }

    /// Waits for the process before to let its members go, or to die.
    fn watch(&self) {
        let Some(elder) = &self.elder else {
            return;
        };
        let heard = hear(&elder.line, Word::Gone);
        elder.gone.store(true, Ordering::Release);
        if heard.is_ok() || self.begin(Begun::Needed) != Begun::NotYet {
            return;
        }
        // It died with all that it had, and nobody would serve until somebody asks.
        let taken = self.roster.table().take_over();
        let _ = taken.inspect_err(trace::refused);
        self.relieve(Some(Instant::now()));
        self.reign();
    }

    /// Empties the members of the process before, and takes them out.
    fn relieve(&self, until: Option<Instant>) {
        let Some(elder) = &self.elder else {
            return self.taken.put(Ok(0));
        };
        if !self.roster.table().keeps_flows() {
            return self.taken.put(self.empty(elder, until));
        }
        self.taken.put(Ok(0));
        // Until its last flow has ended.
        elder.dismiss(FOREVER);
        let _turn = self.roster.turn();
        let buried = self.roster.table().bury();
        let _ = buried.inspect_err(trace::refused);
        let _ = say(&elder.line, Word::Taken);
    }

    fn elders(&self) -> Result<Vec<Emptying>, Error> {
        let table = self.roster.table();
        let mut elders = Vec::new();
        for (_, fd) in table.elders() {
            let copy = fd.try_clone().map_err(|error| {
                let what = format!("cannot empty the members before on {}", self.addr);
                Error::system(what, error).at(self.addr)
            })?;
            if let Some(weak) = Weak::new(sys::borrow(&copy)) {
                elders.push(Emptying::new(copy, &weak, self.addr));
            }
        }
        Ok(elders)
    }

    /// Until it has been dismissed, the process before can go on if this one dies: so only then are
    /// its members taken out, and hidden, which nobody can take back without a privilege.
    fn empty(&self, elder: &Elder, until: Option<Instant>) -> Result<u32, Error> {
        let table = || self.roster.table();
        let kind = table().kind();
        let migrates = sys::migrates();
        let left = |emptying: &mut Emptying| match kind {
            Kind::Tcp if migrates => 0,
            Kind::Tcp => emptying.left(),
            Kind::Udp => u32::from(sys::is_readable(emptying.socket()).unwrap_or(false)),
        };
        let is_over = || elder.is_gone() || until.is_some_and(|until| Instant::now() >= until);
        let wait = |elders: &mut [Emptying]| loop {
            let left: u32 = elders.iter_mut().map(left).sum();
            if left == 0 || is_over() {
                break left;
            }
            thread::sleep(PAUSE);
        };

        let hide = |elders: &[Emptying]| {
            if kind == Kind::Tcp {
                for elder in elders {
                    // Refused where it is restricted to a device, as for Leaving.
                    let _ = sys::hide(elder.socket());
                }
                sys::barrier();
            }
        };

        let mut elders = self.elders()?;
        // From here on no processor uses an older program.
        sys::barrier();
        wait(&mut elders);
        let _turn = self.roster.turn();
        if elder.is_gone() {
            // Nobody accepts what comes to them. A SYN that is not answered is sent again.
            hide(&elders);
        }
        let mut lost = 0;
        let leans = table().lean()?;
        if !leans && elders.len() > 1 {
            // This one has one member, which is the last, moves with the first that goes, and is moved
            // no more. For that instant the hash chooses, so that the others are emptied anew.
            let mut first = elders.remove(0);
            hide(std::slice::from_ref(&first));
            lost += wait(std::slice::from_mut(&mut first));
            table().bury_first()?;
            table().lean()?;
        }
        sys::barrier();
        lost += wait(&mut elders);
        elder.dismiss(2 * FAREWELL);
        hide(&elders);
        drop(elders);
        table().bury()?;
        let _ = say(&elder.line, Word::Taken);
        Ok(match kind {
            Kind::Tcp => lost,
            Kind::Udp => lost.min(1),
        })
    }

    /// Serves until the next process has taken over, and answers those that come.
    fn reign(&self) {
        loop {
            let passed_on = match self.wait_at_door() {
                Ok(Some((door, line))) => self.pass_on(&door, &line),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            match passed_on {
                Ok(()) => {
                    drop(self.leave_door());
                    return self.relieved.put(());
                }
                Err(error) => {
                    let what = format!("cannot pass {} on to the next process", self.addr);
                    trace::refused(&Error::system(what, error).at(self.addr));
                    // There may be no descriptor for it, which changes.
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    /// The next process, or None where this one has given up.
    fn wait_at_door(&self) -> io::Result<Option<(Arc<OwnedFd>, OwnedFd)>> {
        let Some(door) = self.door().clone() else {
            return Ok(None);
        };
        self.reigns.store(true, Ordering::SeqCst);
        let line = match self.given_up.load(Ordering::SeqCst) {
            true => None,
            false => Some(meet::accept(sys::borrow(&*door))),
        };
        // Before another is told of the door, which would be closed to it too.
        self.reigns.store(false, Ordering::SeqCst);
        match line {
            Some(line) if !self.given_up.load(Ordering::SeqCst) => Ok(Some((door, line?))),
            _ => {
                self.close_door();
                Ok(None)
            }
        }
    }

    /// Lends the members to the next process, until it has emptied them.
    fn pass_on(&self, door: &OwnedFd, line: &OwnedFd) -> io::Result<()> {
        pass::set_timeout(sys::borrow(line), Duration::from_secs(5))?;
        check_peer(line)?;
        hear(line, Word::Hello)?;
        let members = loop {
            // Said, because after a mere end the next process asks again.
            let members = self.roster.table().give_away();
            match members.inspect_err(|_| drop(say(line, Word::Refused)))? {
                Some(members) => break members,
                None => thread::sleep(PAUSE),
            }
        };
        let lend = || {
            let parcel = Parcel {
                kind: self.roster.table().kind(),
                pid: std::process::id(),
                members,
                extra: Some(door.try_clone()?),
            };
            parcel.send(line)?;
            drop(parcel);
            pass::set_timeout(sys::borrow(line), FOREVER)?;
            hear(line, Word::Settled)
        };
        if let Err(error) = lend() {
            self.roster.table().take_back()?;
            return Err(error);
        }
        let open = self.let_go();
        // The next process does not depend on the answer.
        let _ = say(line, Word::Gone);
        pass::set_timeout(sys::borrow(line), Duration::from_secs(5))?;
        if hear(line, Word::Taken).is_err() {
            // It has died, and whoever waits in accept(2) would do so for ever.
            let kind = self.roster.table().kind();
            for fd in &open {
                let _ = sys::leave(kind, sys::borrow(fd));
            }
        }
        Ok(())
    }

    /// Waits until the workers have closed their sockets, as long as that is of use; those that are
    /// still open.
    fn let_go(&self) -> Vec<OwnedFd> {
        let table = || self.roster.table();
        let keeps_flows = table().keeps_flows();
        if !keeps_flows && table().is_blocking() {
            // They wait in accept(2), and learn it from there.
            return table().forget();
        }
        self.relieved.put(());
        let until = Instant::now() + FAREWELL;
        while table().is_open() && (keeps_flows || Instant::now() < until) {
            thread::sleep(Duration::from_millis(1));
        }
        table().forget()
    }
}

impl Elder {
    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Says that its members are empty, and waits until it has let them go.
    fn dismiss(&self, patience: Duration) {
        if say(&self.line, Word::Settled).is_err() {
            return;
        }
        let until = Instant::now() + patience;
        while !self.is_gone() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
