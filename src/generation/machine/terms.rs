//! The states of a generation, what it hears, and what it answers.

use crate::generation::wire::Word;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// The predecessor serves, and this one's members get nothing, or the part that it has given them.
    Beside,
    /// This one gives its part back, and the predecessor has not yet answered.
    Returning,
    /// This one gets nothing new any more, and accepts what is under way to it.
    Emptying,
    /// As emptying, with nothing left; the workers are about to close their sockets.
    Closing,
    /// The predecessor has died, and the kernel has not yet been told of this one.
    Orphan,
    /// The predecessor has been told, so that it leaves the kernel's program alone.
    Asking,
    /// This one gets what is new, and the predecessor still accepts what is under way.
    Draining,
    /// The predecessor has died, and what it had is counted.
    Ending,
    /// The predecessor has nothing any more, and is about to close its sockets.
    Parting,
    /// As parting, and they are removed a moment later: the kernel has refused it, or sockets of a successor
    /// that is gone may still be in the group.
    Removing,
    /// Under connection ids: the predecessor keeps its flows until it closes its sockets.
    Keeping,
    /// Alone.
    Serving,
    /// A successor's members stand behind this one's, and get nothing.
    Lending,
    /// No new client is let in, and what is under way is accepted.
    Stopping,
    /// The successor gets what is new, and this one accepts what is under way.
    Passing,
    /// Nothing more comes here, and the workers are about to close their sockets.
    Letting,
    Relieved,
    /// It has given up, or was given up.
    Over,
}

/// The process before, or the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    Predecessor,
    Successor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The program asks to take over.
    TakeOver,
    /// The program asks for a part of what is new.
    Share,
    Heard(Peer, Word),
    /// The connection with it has ended: it has died, or hung up.
    Ended(Peer),
    /// Of what the predecessor had nothing is left; or this process, when it gets nothing new.
    Drained,
    /// The patience for this state, or the program's own time, is over.
    Expired,
    /// A successor has come.
    Arrived,
    /// An action was refused; those that stood behind it were not carried out.
    Failed(Action),
    /// There is no member to lend or to name, or none is left after the successor has died.
    Nothing,
    /// The workers have closed all sockets, or wait in calls that only the successor ends.
    LetGo,
    /// The program has dropped its handle.
    Dropped,
    /// The program asks to end without a successor.
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Say(Peer, Word),
    /// Tell the kernel that this one's members get what is new.
    Program,
    /// Wait until no processor can bring the predecessor anything new, and count what it has.
    Drain,
    /// Keep what arrives from finding the predecessor's sockets.
    Hide,
    /// Take the predecessor's sockets out of the group.
    Remove,
    /// Lend the members to the successor that has come.
    Lend,
    /// Take the members of the successor into the table.
    Admit,
    /// Give the successor the part of what is new that it has asked for.
    Share,
    /// Give it nothing new any more.
    Unshare,
    /// Give nothing to those of its members that its workers have closed.
    Omit,
    /// Leave the kernel's program to the successor.
    Freeze,
    /// The successor has left it to this one again.
    Thaw,
    /// Leave the kernel's program to the predecessor again.
    Retreat,
    /// Take the successor's members out of the group, and decide again.
    TakeBack,
    /// Take this one's own members out of the group.
    Withdraw,
    /// Tell the program how the takeover went.
    Taken,
    /// Tell the program that nothing more comes.
    Relieve,
    /// Let no other successor come.
    Close,
    /// Keep nothing of the group any more.
    Forget,
    /// Let no new client in, and count what is under way.
    Stop,
}

/// How what the predecessor has comes to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Connections,
    Datagrams,
    /// Datagrams that are bound to the predecessor by their connection ids; or whose sockets are in the
    /// group until their owners close them.
    Flows,
}

/// What is still to be done for the predecessor, whose listeners are hidden, when this one is again without
/// a successor: until then a removal would move members of which the successor knows the places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Behind {
    #[default]
    Nothing,
    /// To wait until it has closed them.
    Open,
    /// To remove them.
    Closed,
}
