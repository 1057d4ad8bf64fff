//! A generation of sockets that know of none: the first restart of a server that a plain listener or a group was.

use std::io;
use std::time::{Duration, Instant};

use super::Generation;
use super::core::Core;
use super::driver::{Driver, mode};
use super::machine::Machine;
use super::open::{PATIENCE, check, start};
use super::request::{Request, process};
use crate::error::Error;
use crate::group::{Group, Socket};
use crate::open::{Call, Family, Opening, Options, adopt};
use crate::steering::Spread;
use crate::sys::{self, Kind, OwnedFd, meet, pass};
use crate::trace;

impl Generation {
    /// Makes the first generation of a server of sockets that another process has opened, and that knows of no
    /// generations.
    ///
    /// It is for one restart, after which all others are between generations: from a listener of std or tokio, from
    /// [`listen`](Options::listen) or from a [`group`](Options::group). The new process has to get descriptors of all
    /// the old one's sockets on the address: it inherits them, is sent them over a UNIX stream, or takes them by
    /// pidfd_getfd(2); the [guide](crate::guide), 33, has the program. Then both processes have the same sockets and
    /// queues, and nothing in them is lost when the old one stops accepting, closes its descriptors and ends. If this
    /// one fails, the old one goes on. The next process opens its own sockets, by [`Options::generation`] on the same
    /// address.
    ///
    /// A listener that does not share its port does so from then on (`SO_REUSEPORT`), as all of this crate do. The
    /// order becomes the members' [numbers](crate::Member::number). Whether they block is left as it is until a
    /// member is taken, by [`attach`](crate::Member::attach) or [`into_std`](crate::Member::into_std); that acts on
    /// the old process too. The old process has to end before another one takes over from this one: all its listeners
    /// end then.
    ///
    /// It is not for sockets that a supervisor keeps, as systemd does: these would end too, and nothing of their
    /// queues is lost in a restart anyway ([`ReusePort::adopt`](crate::ReusePort::adopt)).
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use std::net::TcpListener;
    /// use reuseport::Generation;
    ///
    /// # fn adopt(old: Vec<std::os::fd::OwnedFd>) -> Result<(), reuseport::Error> {
    /// let (group, generation) = Generation::adopt::<TcpListener, _>(old)?;
    /// # Ok(())
    /// # }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Group::adopt`], but a listener need not share its port.
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) where another user has opened one, where one is for one device,
    /// of MPTCP or in another network namespace, and where a socket shares the port that is not among them.
    /// [`AddrInUse`](io::ErrorKind::AddrInUse) where a generation serves there: it is relieved by
    /// [`Options::generation`]. As [`Options::generation`], where the system cannot be told whom to choose.
    pub fn adopt<S: Socket, F: Into<OwnedFd>>(
        sockets: impl IntoIterator<Item = F>,
    ) -> Result<(Group<S>, Self), Error> {
        let fds = sockets.into_iter().map(Into::into).collect();
        adopted(fds).inspect_err(trace::refused)
    }
}

fn adopted<S: Socket>(fds: Vec<OwnedFd>) -> Result<(Group<S>, Generation), Error> {
    for fd in &fds {
        prepare(fd, S::KIND)?;
    }
    let group = Group::<S>::adopt_in_use(fds)?;
    let addr = group.local_addr();
    let only_v6 = group
        .iter()
        .any(|member| sys::only_v6(member).unwrap_or(false));
    // By the name under which the next process looks for it.
    let family = match addr.ip().is_unspecified() && addr.is_ipv6() && only_v6 {
        true => Family::V6,
        false => Family::Any,
    };
    let options = Options::new().family(family).spread(Spread::Kernel);
    let opening = Opening::new(&options, Call::Generation(S::KIND), addr)?;
    let namespace = group
        .iter()
        .next()
        .and_then(|one| sys::namespace(sys::borrow(one)));
    let here = sys::Socket::new(S::KIND, &addr, false);
    if here.is_ok_and(|here| sys::namespace(here.lend()) != namespace) {
        let what = format!("cannot open a generation on {addr}");
        let why = "its sockets are in another network namespace than this thread, where the next process would be";
        return Err(Error::invalid(what, why).at(addr));
    }
    let request = Request {
        options: &options,
        opening: &opening,
        place: opening.meeting_place(),
        owner: sys::user(),
        spread: Spread::Kernel,
        n: group.len(),
        until: Instant::now() + PATIENCE,
    };
    check(&request)?;
    let mut tries = 0;
    let rendezvous = loop {
        match meet::find(&request.place, request.owner, request.until) {
            Ok(meet::Found::Nobody) => {
                break meet::listen(&request.place).map_err(|error| {
                    request.failed(error, "the next process could not find it")
                })?;
            }
            // It ends at this instant.
            Ok(meet::Found::Line(line)) if tries < 20 && hangs_up(&line) => {
                tries += 1;
            }
            Ok(meet::Found::Line(line)) => {
                let pid = pass::peer(sys::borrow(&line))
                    .ok()
                    .and_then(|peer| peer.pid);
                return Err(serves(&request, pid));
            }
            Ok(meet::Found::Busy) => return Err(serves(&request, None)),
            Err(error) => return Err(request.failed(error, "the process that serves is not found")),
        }
    };
    let shared = group.roster().shared();
    if shared.state().has_stranger()? {
        let why = "a socket shares the port that is not among those that were adopted: adopt it too, or close it";
        return Err(request.refused(io::ErrorKind::InvalidInput, why));
    }
    let driver = Driver::new(Machine::first(mode(&shared)), None, Some(rendezvous));
    let generation = start(&request, Core::new(shared, driver, None))?;
    Ok((group, generation))
}

/// Whether a process goes that has been found: one that serves says nothing before it is asked.
fn hangs_up(line: &OwnedFd) -> bool {
    let until = Instant::now() + Duration::from_secs(1);
    let ready = sys::wait::poll(&[sys::borrow(line)], Some(until));
    ready.is_ok_and(|ready| ready.contains(&true))
}

fn serves(request: &Request<'_>, pid: Option<u32>) -> Error {
    let why = format!(
        "{} serves there as a generation already: Options::generation relieves it",
        process(pid)
    );
    request.refused(io::ErrorKind::AddrInUse, why)
}

/// Looks at a socket, and lets others share its port.
fn prepare(fd: &OwnedFd, kind: Kind) -> Result<(), Error> {
    let cannot = || format!("cannot make a generation of {}", adopt::number(fd));
    let found = adopt::inspect(fd, kind, cannot)?;
    let Some(addr) = found.local else {
        // What is adopted into the group says so.
        return Ok(());
    };
    let invalid = |why: String| Err(Error::invalid(cannot(), why).at(addr));
    let failed = |error| Error::system(cannot(), error).at(addr);
    let (owner, me) = (sys::owner(sys::borrow(fd)).map_err(failed)?, sys::user());
    if owner != me {
        return invalid(format!(
            "user {owner} opened it, and ports are shared within one user: the next process could open none beside it"
        ));
    }
    if sys::interface(sys::borrow(fd)).is_some_and(|index| index != 0) {
        return invalid("it is for one device".to_owned());
    }
    if Options::like(fd)?.is_mptcp() {
        return invalid(
            "it is a socket of MPTCP, and generations open those of TCP only".to_owned(),
        );
    }
    if kind == Kind::Tcp && !sys::is_shared(sys::borrow(fd)).map_err(failed)? {
        sys::share_late(sys::borrow(fd), &addr)
            .map_err(|error| failed(error).why(Some("it cannot be made to share its port")))?;
    }
    Ok(())
}
