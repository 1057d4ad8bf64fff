//! Opens a generation: finds the process that serves, or becomes the first.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::driver::{Driver, mode};
use super::machine::Machine;
use super::request::{Answer, Request, SILENCE, ask, may_hang_up, process};
use super::wire::{self, Message, Parcel, Word};
use super::{Generation, Predecessor};
use crate::error::Error;
use crate::group::{self, Group, Member, Roster, Socket};
use crate::open::{Call, Opening, Options, Purpose, ToAddr, adopt};
use crate::steering::Spread;
use crate::sys::{self, Holder, OwnedFd, meet, meet::Rendezvous};

/// How long the predecessor may have to wait for something: it may be taking over itself, which ends by
/// the time a handshake with a client that has vanished does.
pub(super) const PATIENCE: Duration = Duration::from_secs(75);

pub(super) fn open<S: Socket>(
    options: &Options,
    addr: impl ToAddr,
    n: usize,
) -> Result<(Group<S>, Generation), Error> {
    let target = addr.target()?;
    let spread = options.spread;
    let options = &resolved(options);
    let opening = Opening::new(options, Call::Generation(S::KIND), target)?;
    let owner = sys::user();
    let request = Request {
        options,
        opening: &opening,
        place: opening.meeting_place(),
        owner,
        spread,
        n,
        until: Instant::now() + PATIENCE,
    };
    check(&request)?;
    // How often the port was another group's, whose process does not answer to this name.
    let mut refusals = 0;
    let mut pause = Duration::from_millis(1);
    let mut hung_up = None;
    // Whether there was one that serves no more.
    let mut has_ended = false;
    loop {
        match meet::find(&request.place, owner, request.until) {
            Ok(meet::Found::Line(line)) => match ask(&request, &line)? {
                Answer::Members(parcel, pid) => return succeed(&request, line, parcel, pid),
                Answer::HungUp(pid) if !may_hang_up(&mut hung_up, pid) => {
                    let why = format!("{} hangs up without an answer", process(pid));
                    return Err(request.refused(io::ErrorKind::TimedOut, why));
                }
                Answer::Again | Answer::HungUp(_) if Instant::now() >= request.until => {
                    let why = "the process that serves is replaced again and again";
                    return Err(request.refused(io::ErrorKind::TimedOut, why));
                }
                Answer::Again | Answer::HungUp(_) => {
                    has_ended = true;
                    std::thread::sleep(pause);
                    pause = (2 * pause).min(Duration::from_millis(50));
                }
            },
            Ok(meet::Found::Busy) => {
                let why = "the process that serves does not answer";
                return Err(request.refused(io::ErrorKind::TimedOut, why));
            }
            Ok(meet::Found::Nobody) => {
                let rendezvous = match meet::listen(&request.place) {
                    Ok(rendezvous) => rendezvous,
                    // Another begins to listen at this instant.
                    Err(error)
                        if error.kind() == io::ErrorKind::AddrInUse
                            && Instant::now() < request.until =>
                    {
                        std::thread::sleep(pause);
                        pause = (2 * pause).min(Duration::from_millis(50));
                        continue;
                    }
                    Err(error) => {
                        let why = "the next process could not find it";
                        return Err(request.failed(error, why));
                    }
                };
                // The one queue of a process that has stopped is there until that has closed it.
                let closes = has_ended && options.spread == Spread::Queue;
                match first(&request, target, rendezvous) {
                    // Another was quicker, and is found under its name; or is about to end.
                    Err(error) if refusals < 3 && is_groups(&error, closes) => {
                        // Who has the port is found in a table of the kernel's, which may take long.
                        std::thread::sleep(Duration::from_millis(10 << (2 * refusals)));
                        let is_late = Instant::now() >= request.until;
                        refusals += u32::from(refusals < 2 || !closes || is_late);
                    }
                    opened => return opened,
                }
            }
            Err(error) => return Err(request.failed(error, "the process that serves is not found")),
        }
    }
}

/// With the spread that both processes come to by themselves: a queue each where the system can be told whom to
/// choose.
fn resolved(options: &Options) -> Options {
    let spread = match options.spread {
        Spread::Best if sys::steers().is_ok_and(|steers| !steers) => Spread::Queue,
        chosen => chosen.here(),
    };
    options.clone().spread(spread)
}

/// Whether a group of this user has the port; assumed where the system does not tell.
fn is_groups(error: &Error, closes: bool) -> bool {
    let is_in_use = closes && error.kind() == io::ErrorKind::AddrInUse;
    error
        .holder()
        .map_or(is_in_use, |holder| holder == Holder::Group)
}

pub(super) fn check(request: &Request<'_>) -> Result<(), Error> {
    let invalid = |why: &str| Err(request.refused(io::ErrorKind::InvalidInput, why));
    if request.addr().port() == 0 {
        return invalid("for port 0 the kernel would give the next process another port");
    }
    match sys::steers() {
        _ if request.options.spread == Spread::Queue => {}
        Ok(true) => {}
        Ok(false) => {
            let why = "this system cannot be told which member to choose, and the members are to have a \
                       queue each";
            return Err(request.refused(io::ErrorKind::Unsupported, why));
        }
        Err(error) => return Err(request.failed(error, "this system could not be asked")),
    }
    if request.n == 0 {
        return invalid("a group has at least one member");
    }
    if sys::is_nobody(request.owner) {
        let why = format!(
            "user {} of this user namespace stands for all who have no number in it, so that another \
             user could not be told from this one",
            request.owner
        );
        return Err(request.refused(io::ErrorKind::PermissionDenied, why));
    }
    Ok(())
}

fn first<S: Socket>(
    request: &Request<'_>,
    target: impl ToAddr + Copy,
    // It is found before it has the port, so that another who starts now finds it when it has.
    rendezvous: Rendezvous,
) -> Result<(Group<S>, Generation), Error> {
    let call = Call::Generation(S::KIND);
    let opened = group::open(request.options, call, target, request.n);
    let group = match opened {
        // As where the server's address changes, and it has both.
        Err(error) if is_groups(&error, false) && request.opening.is_beside_own() => {
            let mut options = request.options.clone();
            options.overlaps = true;
            let group = group::open(&options, call, target, request.n)?;
            // One that came at this instant; what is new keeps it out.
            if group.roster().shared().state().has_stranger()? {
                return Err(error);
            }
            group
        }
        opened => opened?,
    };
    let shared = group.roster().shared();
    if request.options.spread == Spread::Queue {
        // One process would set what is the other's too.
        let prepared = group.iter().take(1).try_for_each(|member| {
            sys::set_nonblocking(member, true)?;
            let queue = sys::borrow(member).try_clone_to_owned()?;
            shared.state().keep_queue(queue);
            Ok(())
        });
        prepared
            .map_err(|error: io::Error| request.failed(error, "its queue could not be prepared"))?;
    }
    let mode = mode(&shared);
    let driver = Driver::new(Machine::first(mode), None, Some(rendezvous));
    let core = Core::new(shared, driver, None);
    start(request, core).map(|generation| (group, generation))
}

/// The only process of a server, on a system on which no other can replace it.
pub(super) fn alone<S: Socket>(
    options: &Options,
    addr: impl ToAddr,
) -> Result<(Group<S>, Generation), Error> {
    let options = resolved(options);
    let group = group::open(&options, Call::Generation(S::KIND), addr, 1)?;
    let shared = group.roster().shared();
    let driver = Driver::new(Machine::first(mode(&shared)), None, None);
    let core = Core::alone(shared, driver).map_err(|error| {
        let what = format!("cannot serve on {}", group.local_addr());
        Error::system(what, error).at(group.local_addr())
    })?;
    Ok((group, Generation::new(Arc::new(core))))
}

pub(super) fn start(request: &Request<'_>, core: io::Result<Core>) -> Result<Generation, Error> {
    let core = core.map_err(|error| {
        let why = sys::resource_reason(&error).unwrap_or("it could not be told what happens");
        request.failed(error, why)
    })?;
    let core = Arc::new(core);
    core.start()?;
    Ok(Generation::new(core))
}

/// Opens the group beside that of the predecessor, which still gets everything.
fn succeed<S: Socket>(
    request: &Request<'_>,
    line: OwnedFd,
    parcel: Parcel,
    pid: Option<u32>,
) -> Result<(Group<S>, Generation), Error> {
    let Request { options, n, .. } = *request;
    let cannot = || format!("cannot take over {} from {}", request.addr(), process(pid));
    let invalid = |why: String| Error::invalid(cannot(), why).at(request.addr());
    if parcel.kind != S::KIND {
        let (is, meant) = (parcel.kind.name(), S::KIND.name());
        return Err(invalid(format!(
            "its members are {is} sockets, and {meant} was meant"
        )));
    }
    let (spread, one_queue) = match (request.spread, parcel.one_queue) {
        (Spread::Best | Spread::Queue, true) => (Spread::Queue, true),
        (_, true) => {
            let why =
                "its members have one queue together, and a queue each was meant (Options::spread)";
            return Err(invalid(why.to_owned()));
        }
        (Spread::Queue, false) => {
            let why = "its members have a queue each, and one queue was meant (Options::spread)";
            return Err(invalid(why.to_owned()));
        }
        (_, false) if options.spread == Spread::Queue => {
            let why = "its members have a queue each, and this process cannot tell the kernel whom to choose";
            return Err(invalid(why.to_owned()));
        }
        (_, false) => (Spread::Kernel, false),
    };
    let Some((_, _, fd)) = parcel.members.first() else {
        return Err(invalid("it has lent no member".to_owned()));
    };
    let addr = adopt::look(fd, S::KIND)?;
    let beside_it = options.clone().beside(fd);
    if !request.opening.may_be(addr) {
        return Err(invalid(format!("its group is on {addr}")));
    }
    let Some(rendezvous) = Rendezvous::of(parcel.extra) else {
        return Err(invalid("it passed no place to meet".to_owned()));
    };

    // Numbers stand in datagrams, where they tell the generations apart; else each counts from 0.
    let keeps_flows = options.steering.keeps_flows();
    let number = |number: Option<usize>| number.filter(|_| keeps_flows);
    let mut lent = parcel.members.into_iter();
    let queue = one_queue.then(|| lent.next()).flatten();
    let queue = queue.map(|(_, _, fd)| fd);
    let predecessors: Vec<_> = lent
        .map(|(own, exact, fd)| (number(own), exact, fd))
        .collect();
    let mut taken: Vec<usize> = predecessors
        .iter()
        .filter_map(|(number, ..)| *number)
        .collect();
    taken.sort_unstable();
    let free = (0..).filter(|number| taken.binary_search(number).is_err());
    let numbers: Vec<usize> = free.take(n).collect();
    let end = numbers.last().map_or(0, |last| last + 1);

    let roster = Roster::<S>::new(addr, spread, beside_it);
    let shared = roster.shared();
    shared
        .state()
        .succeed(predecessors, end, &options.steering)?;
    let opened = beside::<S>(request, &roster, queue.as_ref(), &numbers, &line);
    if let Some(queue) = queue {
        shared.state().keep_queue(queue);
    }
    let members = opened.inspect_err(|_| {
        // Behind the predecessor's, which are not moved by that.
        shared.withdraw();
        let _ = wire::say(&line, Word::GivingUp, &[], Some(Instant::now() + SILENCE));
    })?;
    let group = Group::of(addr, members, spread, roster);
    let mode = mode(&shared);
    let driver = Driver::new(Machine::successor(mode), Some(line), Some(rendezvous));
    let predecessor = Some(Predecessor { pid });
    let generation = start(request, Core::new(shared, driver, predecessor))?;
    Ok((group, generation))
}

fn has_hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Opens the members behind those of the predecessor, or as duplicates of its one `queue`, and tells it of them.
fn beside<S: Socket>(
    request: &Request<'_>,
    roster: &Roster<S>,
    queue: Option<&OwnedFd>,
    numbers: &[usize],
    line: &OwnedFd,
) -> Result<Vec<Member<S>>, Error> {
    let shared = roster.shared();
    let n = numbers.len();
    let mut members = Vec::with_capacity(n.min(1 << 15));
    for (at, &number) in numbers.iter().enumerate() {
        let join = Purpose::Join(at, n);
        let socket = match queue {
            None => S::from_socket(request.opening.open(join, false)?),
            Some(queue) => {
                let duplicate = queue.try_clone().map(S::from);
                duplicate.map_err(|error| request.opening.refused(join, error))?
            }
        };
        shared.state().add(number, sys::borrow(&socket));
        members.push(Member::new(socket, number));
    }
    if shared.state().has_stranger()? {
        let why = "a socket that neither of the two processes has opened shares the port too: close it, \
                   or open it as a generation";
        return Err(request.refused(io::ErrorKind::InvalidInput, why));
    }
    let until = Some(Instant::now() + SILENCE);
    // Of the one queue it knows.
    let own = members.iter().filter(|_| queue.is_none());
    let fds: Vec<_> = own.map(sys::borrow).collect();
    // What another process reads as a number stands in datagrams.
    let keeps_flows = request.options.steering.keeps_flows();
    let named = if keeps_flows { numbers } else { &[] };
    let answer = wire::send_mine(line, &fds, named, until).and_then(|()| wire::hear(line, until));
    match answer {
        // It has ended at this instant, and this process has the queue.
        Ok(Message {
            word: Word::Yield, ..
        }) if queue.is_some() => Ok(members),
        Err(error) if queue.is_some() && has_hung_up(&error) => Ok(members),
        Ok(Message {
            word: Word::Accepted,
            ..
        }) => Ok(members),
        Ok(Message {
            word: Word::Refused,
            body,
            pid,
            ..
        }) => {
            let why = format!("{} refuses: {}", process(pid), wire::text(&body));
            Err(request.refused(io::ErrorKind::ConnectionRefused, why))
        }
        Ok(Message {
            word: Word::Superseded,
            ..
        }) => {
            let why = "another process has come later, and is to take over";
            Err(request.refused(io::ErrorKind::ConnectionAborted, why))
        }
        Ok(Message { word, .. }) => {
            let why = format!("the process that serves said {word:?}, and an answer was expected");
            Err(request.refused(io::ErrorKind::InvalidData, why))
        }
        Err(error) => Err(request.failed(error, "the process that serves does not answer")),
    }
}
