//! A whole group that goes from one process to another over a stream of the caller's.

use std::io;

use super::wire::{self, Message, Parcel, Word};
use crate::error::Error;
use crate::group::{Group, Member, Roster, Shared, Socket, Stage};
use crate::open::{Options, adopt};
use crate::steering::Spread;
use crate::sys::{self, AsFd, pass};
use crate::trace;

/// Refuses a process of another user: it could send and take anything.
fn check_peer(socket: &impl AsFd, owner: u32, what: &str) -> io::Result<()> {
    let peer = pass::peer(sys::borrow(socket))?;
    let why = match peer.uid == owner {
        true if !sys::is_nobody(owner) => return Ok(()),
        true => format!(
            "user {owner} of this user namespace stands for all who have no number in it, so that another \
             user could not be told from this one"
        ),
        false => format!(
            "the other process is user {}'s, and {what} user {owner}'s",
            peer.uid
        ),
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// The answer that ends a hand-over.
fn hear_taken(from: &impl AsFd) -> io::Result<()> {
    let Message { word, body, .. } = wire::hear(from, None)?;
    let why = match word {
        Word::Taken => return Ok(()),
        Word::Refused => format!("the other process refuses: {}", wire::text(&body)),
        other => format!("the other process said {other:?}, and Taken was expected"),
    };
    Err(io::Error::new(io::ErrorKind::ConnectionRefused, why))
}

fn hand_over(shared: &Shared, to: &impl AsFd) -> Result<(), Error> {
    let (addr, kind, owner) = {
        let state = shared.state();
        (state.addr(), state.kind(), state.owner())
    };
    let failed = |error: io::Error| {
        let reason = pass::reason(&error);
        let what = format!("cannot hand the group on {addr} over");
        Error::system(what, error).at(addr).why(reason)
    };
    let refuse = |error: &dyn ToString| {
        // The other process need not wait for what does not come.
        let _ = wire::say(to, Word::Refused, error.to_string().as_bytes(), None);
    };
    check_peer(to, owner, "the sockets are")
        .map_err(failed)
        .inspect_err(|error| refuse(error))?;
    let lent = {
        let mut state = shared.state();
        let lent = state.lend_all();
        lent.inspect(|_| state.set_stage(Stage::Passing))
    };
    let lent = lent.inspect_err(|error| refuse(error))?;
    let given = wire::send_members(to, kind, false, &lent, &[], None).and_then(|()| hear_taken(to));
    drop(lent);
    match given {
        Ok(()) => {
            shared.state().forget();
            Ok(())
        }
        Err(error) => {
            let taken_back = shared.take_back();
            // The other process has opened none.
            shared.state().is_wary(true);
            taken_back?;
            Err(failed(error))
        }
    }
}

fn receive<S: Socket>(from: &impl AsFd) -> Result<Group<S>, Error> {
    let what = "cannot receive a group";
    let failed = |error: io::Error| {
        let reason = pass::reason(&error);
        Error::system(what, error).why(reason)
    };
    let refuse = |error: &Error| {
        let _ = wire::say(from, Word::Refused, error.to_string().as_bytes(), None);
    };
    check_peer(from, sys::user(), "this one is")
        .map_err(failed)
        .inspect_err(refuse)?;
    let Message {
        word, body, fds, ..
    } = wire::hear(from, None)
        .map_err(failed)
        .inspect_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                refuse(error);
            }
        })?;
    let parcel = match word {
        Word::Members => Parcel::parse(&body, fds)
            .map_err(failed)
            .inspect_err(refuse)?,
        Word::Refused => {
            let why = format!("the other process refuses: {}", wire::text(&body));
            return Err(Error::refused(io::ErrorKind::ConnectionRefused, what, why));
        }
        other => {
            let why = format!("the other process said {other:?}, and its members were expected");
            return Err(Error::refused(io::ErrorKind::InvalidData, what, why));
        }
    };
    let group = unpack::<S>(parcel).inspect_err(refuse)?;
    wire::say(from, Word::Taken, &[], None).map_err(failed)?;
    trace::received(S::KIND, group.local_addr(), group.len());
    Ok(group)
}

/// The group that has arrived.
fn unpack<S: Socket>(parcel: Parcel) -> Result<Group<S>, Error> {
    let cannot = "cannot receive a group";
    if parcel.kind != S::KIND {
        let (is, meant) = (parcel.kind.name(), S::KIND.name());
        let why = format!("its members are {is} sockets, and {meant} was meant");
        return Err(Error::invalid(cannot, why));
    }
    let Some((_, _, first)) = parcel.members.first() else {
        return Err(Error::invalid(cannot, "it has no member"));
    };
    let addr = adopt::look(first, S::KIND)?;
    let options = Options::like(first)?;
    let roster = Roster::<S>::new(addr, Spread::Kernel, options);
    let shared = roster.shared();
    let mut members = Vec::with_capacity(parcel.members.len());
    let mut unknown = Vec::new();
    for (number, exact, fd) in parcel.members {
        let own = adopt::look(&fd, S::KIND)?;
        let (true, Some(number)) = (own == addr, number) else {
            let why = format!("a member is on {own}, and the group on {addr}");
            return Err(Error::invalid(cannot, why).at(own));
        };
        let mut state = shared.state();
        let id = state.add(number, sys::borrow(&fd));
        unknown.extend((!exact).then_some(id));
        members.push(Member::inherited(fd.into(), number));
    }
    shared.state().scramble_these(&unknown);
    members.sort_by_key(Member::number);
    Ok(Group::of(addr, members, Spread::Kernel, roster))
}

impl<S: Socket> Group<S> {
    /// Takes the group that another process of this user hands over.
    ///
    /// [`Roster::hand_over`] is the other side. Nothing is closed, so nothing is lost: both processes
    /// have the same sockets, and each connection is accepted by one of them, until the other stops.
    /// The members have the numbers that they had there, in the places that they have; the kernel
    /// goes on steering as it did until this process steers. Dropping a member closes it.
    ///
    /// `from` is a UNIX stream; each wait on it is bounded by its own timeouts (`SO_RCVTIMEO` and
    /// `SO_SNDTIMEO`), which signals do not extend.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use std::os::unix::net::UnixStream;
    /// use reuseport::{Group, Options};
    ///
    /// let (here, there) = UnixStream::pair()?;
    /// let group = Options::new().group("localhost:0", 4)?;
    /// let roster = group.roster();
    /// let old = std::thread::spawn(move || roster.hand_over(&here));
    ///
    /// let new = Group::<std::net::TcpListener>::receive(&there)?;
    /// assert_eq!(new.local_addr(), group.local_addr());
    /// # old.join().unwrap()?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`PermissionDenied`](std::io::ErrorKind::PermissionDenied) where the other process is another
    /// user's. [`InvalidData`](std::io::ErrorKind::InvalidData) where it sends something else, or
    /// speaks another version. [`ConnectionRefused`](std::io::ErrorKind::ConnectionRefused) where it
    /// refuses. [`InvalidInput`](std::io::ErrorKind::InvalidInput) for what is no group of this kind of
    /// socket. [`Unsupported`](std::io::ErrorKind::Unsupported) where no descriptors can be passed. All
    /// that came is closed then, the other process is told why, and it goes on.
    pub fn receive(from: &impl AsFd) -> Result<Self, Error> {
        receive(from).inspect_err(trace::refused)
    }
}

impl<S: Socket> Roster<S> {
    /// Hands every member to another process of this user, and waits until it has them.
    ///
    /// [`Group::receive`](crate::Group::receive) is the other side, with an example. Nothing is closed, so
    /// nothing is lost: from here on both processes accept, until the workers of this one stop and drop
    /// their listeners. The other process decides on the group; here nothing can be steered, left or
    /// joined any more. Loads do not go along: each member gets its share until that process balances its group.
    ///
    /// `to` is a UNIX stream; each wait on it is bounded by its own timeouts. Several groups go over one
    /// stream one after the other. There may be any number of members: they are sent in portions.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use std::os::unix::net::UnixStream;
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let stream = UnixStream::connect("/run/server/next")?;
    /// group.roster().hand_over(&stream)?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`PermissionDenied`](std::io::ErrorKind::PermissionDenied) where the other process is another
    /// user's. [`InvalidInput`](std::io::ErrorKind::InvalidInput) where no member is open, or one is
    /// leaving.
    /// [`ConnectionRefused`](std::io::ErrorKind::ConnectionRefused) where the other process refuses, with
    /// its reason. [`Unsupported`](std::io::ErrorKind::Unsupported) where no descriptors can be passed.
    /// What the system answers where the other process ends. This process then goes on.
    pub fn hand_over(&self, to: &impl AsFd) -> Result<(), Error> {
        hand_over(&self.shared(), to).inspect_err(trace::refused)
    }
}
