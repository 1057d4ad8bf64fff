//! A generation of sockets that know of none: the first restart of a server that a plain listener or a group was.

use std::io;
use std::time::Instant;

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
    /// It is for the first restart after which every other is one of generations: from a listener of std or tokio,
    /// from [`listen`](Options::listen) or a [`group`](Options::group) of this crate. The new process has to get
    /// descriptors of the old one's sockets, all of them: as the child that inherits them, over a UNIX stream, or by
    /// pidfd_getfd(2); the [guide](crate::guide), 33, has a program. Both processes then have the same sockets, so
    /// that nothing in their queues is lost when the old one ends. The next process opens its own beside them, by
    /// [`Options::generation`] on the same address.
    ///
    /// A listener that does not share its port does from then on (`SO_REUSEPORT`), as all of this crate do. Their
    /// order becomes the members' [numbers](crate::Member::number). The sockets are left in the mode in which they
    /// are, blocking or not, until a member is [attached](crate::Member::attach); then it is the old process's
    /// mode too. The old process has to end before the next one takes over from this: its listeners end with those
    /// of this process.
    ///
    /// Not for sockets that a supervisor keeps, as systemd does: with these nothing is lost in a restart anyway
    /// ([`ReusePort::adopt`](crate::ReusePort::adopt)), and this would end them.
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
    /// As [`Group::adopt`], but for listeners that do not share their port.
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) where another user has opened one, where one is for one device or
    /// of MPTCP, and where the port is shared by a socket that is not among them.
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
    let rendezvous = match meet::find(&request.place, request.owner, request.until) {
        Ok(meet::Found::Nobody) => meet::listen(&request.place)
            .map_err(|error| request.failed(error, "the next process could not find it"))?,
        Ok(meet::Found::Line(line)) => {
            let pid = pass::peer(sys::borrow(&line))
                .ok()
                .and_then(|peer| peer.pid);
            return Err(serves(&request, pid));
        }
        Ok(meet::Found::Busy) => return Err(serves(&request, None)),
        Err(error) => return Err(request.failed(error, "the process that serves is not found")),
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
