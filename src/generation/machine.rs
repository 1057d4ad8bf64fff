//! What a generation does next: a plain state machine, without a descriptor, a clock or a thread.
//!
//! One process is in one state at a time. On its way through life it is a successor first, and a
//! predecessor later:
//!
//! ```text
//!            take_over         Go            nothing left        Closed
//!   Beside ───────────> Asking ──> Draining ─────────────> Parting ──> Serving
//!      │ predecessor died                │ predecessor died              │ a successor arrives
//!      └──────────────────> Ending <─────┘                               v
//!                              │ counted once more                    Lending ──> Serving, when it gives up
//!                              └──────────> Serving                      │ Taking
//!                                                                        v
//!                                            Relieved <── Letting <── Passing ──> Serving, when it dies
//!                                                  Taken        Empty
//! ```
//!
//! A successor may have a part of what is new before it takes over: it is Beside, and the predecessor Lending.
//! Giving up, it gives that part back (Returning), accepts what is under way (Emptying), and lets its workers close
//! their sockets (Closing).
//!
//! Told to stop, a process lets no new client in and accepts what is under way (Stopping); one that serves
//! does so at once, one that is taking over when it has, and one that has not taken over gives up.
//!
//! Another successor may come in Parting: it gets the hidden listeners too, and removes them with this one's.
//!
//! Listeners are hidden when they are empty. UDP sockets are not, because what is hidden cannot answer: they
//! get nothing, and are removed when their owners have closed them. Under connection ids the predecessor
//! keeps its sockets for its flows (Keeping). Where the kernel refuses a step, the
//! machine hears [`Event::Failed`] and goes back, or tries again when its patience is over.

mod terms;

use std::time::Duration;

use super::wire::Word;
use terms::Behind;
pub(crate) use terms::{Action, Event, Mode, Peer, State};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Machine {
    state: State,
    mode: Mode,
    /// Whether the program has dropped its handle, so that no successor may come.
    dropped: bool,
    /// Whether another successor has taken the place of this one.
    superseded: bool,
    /// Whether the program has asked to end.
    stops: bool,
    /// Whether a part of what is new may have come to this process before it has taken over.
    is_tried: bool,
    /// Whether its successor has asked for such a part.
    tries: bool,
    behind: Behind,
}

use Action::{
    Admit, Close, Drain, Forget, Freeze, Hide, Lend, Program, Relieve, Remove, Retreat, Say, Share,
    TakeBack, Taken, Thaw, Unshare, Withdraw,
};
use Peer::{Predecessor, Successor};

impl Machine {
    pub(crate) fn first(mode: Mode) -> Self {
        Self::new(State::Serving, mode)
    }

    pub(crate) fn successor(mode: Mode) -> Self {
        Self::new(State::Beside, mode)
    }

    fn new(state: State, mode: Mode) -> Self {
        Self {
            state,
            mode,
            dropped: false,
            superseded: false,
            stops: false,
            is_tried: false,
            tries: false,
            behind: Behind::Nothing,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped
    }

    /// Whether the program has asked to end.
    pub(crate) fn stops(&self) -> bool {
        self.stops
    }

    pub(crate) fn is_superseded(&self) -> bool {
        self.superseded
    }

    /// Whether a part of what is new may have come to this process before it has taken over.
    pub(crate) fn is_tried(&self) -> bool {
        self.is_tried
    }

    /// Whether it is about to end without having taken over.
    pub(crate) fn gives_up(&self) -> bool {
        matches!(
            self.state,
            State::Returning | State::Emptying | State::Closing
        )
    }

    /// Whether its successor has asked for such a part.
    pub(crate) fn tries(&self) -> bool {
        self.tries
    }

    /// After so long in this state, [`Event::Expired`] is due.
    pub(crate) fn patience(&self) -> Option<Duration> {
        match self.state {
            // It answers at once, unless it hangs.
            State::Asking | State::Returning => Some(Duration::from_secs(1)),
            // Frameworks close their listeners within seconds, or never.
            State::Parting => Some(Duration::from_secs(10)),
            State::Closing if self.mode != Mode::Flows => Some(Duration::from_secs(10)),
            State::Orphan | State::Removing => Some(Duration::from_millis(100)),
            _ => None,
        }
    }

    /// Whether a successor that has come is to be heard of: at once, or when the one that is here has had
    /// its time.
    pub(crate) fn takes_arrival(&self, since: Duration) -> bool {
        /// A successor that has not taken over by then is taken to hang.
        const GRACE: Duration = Duration::from_secs(5);
        match self.state {
            State::Serving | State::Stopping => true,
            // UDP sockets of the predecessor may still have something to answer, and are in their places.
            State::Parting => self.mode == Mode::Connections,
            // What it has accepted would be lost, and what waits at it.
            State::Lending => since >= GRACE && !self.tries,
            _ => false,
        }
    }

    /// Whether there is something to count.
    pub(crate) fn counts(&self) -> bool {
        matches!(
            self.state,
            State::Draining | State::Ending | State::Stopping | State::Emptying
        )
    }

    /// Whether nothing will happen any more.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Relieved | State::Over)
    }

    /// The actions that are due, in this order.
    pub(crate) fn on(&mut self, event: Event) -> Vec<Action> {
        self.dropped |= event == Event::Dropped;
        self.stops |= event == Event::Stop;
        let (state, mut actions) = self.next(event);
        self.state = state;
        match state {
            State::Serving if self.stops => {
                self.state = State::Stopping;
                actions.push(Action::Stop);
            }
            // The predecessor's listeners are hidden, and no client finds them.
            State::Parting if self.stops && self.mode == Mode::Connections => {
                self.state = State::Stopping;
                self.behind = Behind::Open;
                actions.push(Action::Stop);
            }
            // It goes on as a group of its own, which no successor finds.
            State::Serving if self.dropped => {
                self.state = State::Over;
                actions.push(Close);
            }
            State::Beside if self.is_tried && (self.stops || self.dropped) => {
                self.state = State::Returning;
                actions.push(Say(Predecessor, Word::Return));
            }
            State::Beside if self.stops || self.dropped => {
                self.state = State::Over;
                actions.extend([Withdraw, Say(Predecessor, Word::GivingUp), Relieve, Close]);
            }
            _ => {}
        }
        actions
    }

    fn next(&mut self, event: Event) -> (State, Vec<Action>) {
        use Event::{Arrived, Drained, Ended, Expired, Failed, Heard, LetGo, Nothing};
        let stay = (self.state, Vec::new());
        let shared = Say(Successor, Word::Shared);
        match (self.state, event) {
            (State::Beside, Event::TakeOver) => {
                (State::Asking, vec![Say(Predecessor, Word::Taking)])
            }
            (State::Beside, Event::Share) => {
                self.is_tried = true;
                (State::Beside, vec![Say(Predecessor, Word::Share)])
            }
            // The predecessor stops, and lets clients in by this one only.
            (State::Beside, Heard(Predecessor, Word::Shared)) => {
                self.is_tried = true;
                stay
            }
            (State::Returning, Heard(Predecessor, Word::Returned) | Expired) => {
                (State::Emptying, vec![Action::Stop])
            }
            (State::Returning, Ended(Predecessor)) => (State::Emptying, vec![Hide, Action::Stop]),
            (State::Emptying | State::Closing, Ended(Predecessor)) => (self.state, vec![Hide]),
            (State::Emptying, Drained | Expired | Nothing | Failed(Drain)) => {
                (State::Closing, vec![Relieve])
            }
            (State::Closing, LetGo | Expired) => {
                let up = Say(Predecessor, Word::GivingUp);
                (State::Over, vec![Withdraw, up, Close, Taken])
            }
            // Where it has asked for a part, it has had none: the predecessor has not heard that.
            (
                State::Beside | State::Asking | State::Returning | State::Emptying | State::Closing,
                Heard(Predecessor, Word::Superseded),
            ) => {
                self.superseded = true;
                (State::Over, vec![Withdraw, Relieve, Taken, Close])
            }
            (State::Beside | State::Asking, Ended(Predecessor))
            | (State::Orphan, Expired | Event::TakeOver) => {
                (State::Ending, vec![Program, Hide, Drain])
            }
            (State::Ending, Failed(Program)) => (State::Orphan, Vec::new()),
            // Its members were taken out of the group, and it has not heard why.
            (State::Draining | State::Ending, Nothing) => {
                self.superseded = true;
                (State::Over, vec![Relieve, Taken, Close])
            }

            (State::Asking, Heard(Predecessor, Word::Go) | Expired) => {
                (State::Draining, vec![Program, Drain])
            }
            // It hung, and may have told the kernel otherwise before it heard.
            (State::Draining, Heard(Predecessor, Word::Go)) => {
                (State::Draining, vec![Program, Drain])
            }
            (State::Parting | State::Keeping, Heard(Predecessor, Word::Go)) => {
                (self.state, vec![Program])
            }
            // Of what the predecessor has nothing is known, so that it goes on.
            (State::Draining, Failed(Program | Drain)) => {
                self.is_tried = true;
                let back = Say(Predecessor, Word::Back);
                (State::Beside, vec![Retreat, back, Taken])
            }
            (State::Draining, Drained | Expired) => match self.mode {
                Mode::Connections => {
                    let empty = Say(Predecessor, Word::Empty);
                    (State::Parting, vec![empty, Hide, Taken])
                }
                Mode::Datagrams => (State::Parting, vec![Say(Predecessor, Word::Empty), Taken]),
                Mode::Flows => (State::Keeping, vec![Say(Predecessor, Word::Empty), Taken]),
            },
            (State::Draining, Ended(Predecessor)) => (State::Ending, vec![Hide, Drain]),
            (State::Ending, Drained | Expired) => (State::Serving, vec![Taken, Remove]),

            (State::Parting, Heard(Predecessor, Word::Closed) | Ended(Predecessor) | Expired)
            | (State::Removing, Expired)
            | (State::Keeping, Heard(Predecessor, Word::Closed) | Ended(Predecessor)) => {
                (State::Serving, vec![Remove, Say(Predecessor, Word::Taken)])
            }
            // The successor that has come removes what the predecessor has closed by then.
            (State::Parting, Arrived) => {
                self.behind = Behind::Open;
                (State::Lending, vec![Lend])
            }
            (
                State::Lending | State::Passing | State::Letting,
                Heard(Predecessor, Word::Closed) | Ended(Predecessor),
            ) if self.behind == Behind::Open => {
                self.behind = Behind::Closed;
                (self.state, vec![Say(Predecessor, Word::Taken)])
            }
            (State::Stopping, Heard(Predecessor, Word::Closed) | Ended(Predecessor))
                if self.behind == Behind::Open =>
            {
                self.behind = Behind::Nothing;
                (State::Stopping, vec![Remove, Say(Predecessor, Word::Taken)])
            }
            (State::Serving, Failed(Remove)) => (State::Removing, Vec::new()),

            (
                State::Over | State::Relieved | State::Returning | State::Emptying | State::Closing,
                Event::TakeOver,
            ) => (self.state, vec![Taken]),
            (State::Lending, Event::Stop) => (State::Stopping, vec![Action::Stop, shared]),
            (State::Parting, Event::Stop) if self.mode != Mode::Connections => {
                (State::Serving, vec![Remove, Say(Predecessor, Word::Taken)])
            }
            (State::Stopping, Failed(Remove)) => (
                State::Stopping,
                vec![Say(Predecessor, Word::Taken), Action::Stop],
            ),
            (State::Stopping, Drained | Expired | Failed(Drain)) => {
                (State::Over, vec![Relieve, Forget])
            }
            (State::Stopping, Nothing) => {
                let words = [Say(Successor, Word::Yield), Relieve, Forget];
                (State::Over, words.to_vec())
            }
            // It is let in as before, and gets what is new.
            (State::Stopping, Arrived) => (State::Stopping, vec![Lend]),
            (State::Stopping, Failed(Lend | Admit)) => (
                State::Stopping,
                vec![Say(Successor, Word::Refused), TakeBack],
            ),
            (State::Stopping, Heard(Successor, Word::Mine)) => {
                let words = [Word::Accepted, Word::Shared].map(|word| Say(Successor, word));
                (State::Stopping, [vec![Admit], words.to_vec()].concat())
            }
            (State::Stopping, Heard(Successor, Word::GivingUp) | Ended(Successor)) => {
                (State::Stopping, vec![TakeBack])
            }

            (State::Serving, Arrived) => (State::Lending, vec![Lend]),
            (State::Lending, Failed(Lend | Admit)) => {
                self.alone(vec![Say(Successor, Word::Refused), TakeBack])
            }
            (State::Serving | State::Parting | State::Lending, Nothing) => {
                let words = [Say(Successor, Word::Yield), Close, Relieve, Forget];
                (State::Relieved, words.to_vec())
            }
            (State::Lending, Heard(Successor, Word::Mine)) => {
                (State::Lending, vec![Admit, Say(Successor, Word::Accepted)])
            }
            (State::Lending, Arrived) => (
                State::Lending,
                vec![Say(Successor, Word::Superseded), TakeBack, Lend],
            ),
            (State::Lending, Heard(Successor, Word::GivingUp) | Ended(Successor)) => {
                self.alone(vec![TakeBack])
            }
            (State::Lending, Heard(Successor, Word::Share)) => {
                self.tries = true;
                (State::Lending, vec![Share, shared])
            }
            (State::Lending, Failed(Share)) => {
                (State::Lending, vec![Say(Successor, Word::Unshared)])
            }
            (State::Lending, Heard(Successor, Word::Gone)) => (State::Lending, vec![Action::Omit]),
            (State::Lending, Heard(Successor, Word::Return)) => (
                State::Lending,
                vec![Unshare, Say(Successor, Word::Returned)],
            ),
            // It gets everything as it is.
            (State::Stopping, Heard(Successor, Word::Share)) => (State::Stopping, vec![shared]),
            (State::Stopping, Heard(Successor, Word::Return)) => {
                (stay.0, vec![Say(Successor, Word::Returned)])
            }
            (State::Lending | State::Stopping, Heard(Successor, Word::Taking)) => {
                (State::Passing, vec![Freeze, Say(Successor, Word::Go)])
            }
            (State::Passing, Heard(Successor, Word::Back)) if self.stops => {
                (State::Stopping, vec![Thaw, Action::Stop, shared])
            }
            // What has come to it meanwhile is still there.
            (State::Passing, Heard(Successor, Word::Back)) => {
                self.tries = true;
                (State::Lending, vec![Thaw])
            }
            (State::Passing, Ended(Successor)) => self.alone(vec![TakeBack]),
            (State::Passing, Heard(Successor, Word::Empty)) => (State::Letting, vec![Relieve]),
            (State::Letting, LetGo) => (State::Letting, vec![Say(Successor, Word::Closed)]),
            (State::Letting, Heard(Successor, Word::Taken) | Ended(Successor)) => {
                (State::Relieved, vec![Forget])
            }
            _ => stay,
        }
    }

    /// Where the machine is when the successor is gone.
    fn alone(&mut self, actions: Vec<Action>) -> (State, Vec<Action>) {
        self.tries = false;
        match std::mem::take(&mut self.behind) {
            Behind::Nothing => (State::Serving, actions),
            Behind::Open => (State::Parting, actions),
            // A little later: the successor may have left sockets in the group that are being closed.
            Behind::Closed => (State::Removing, actions),
        }
    }
}

#[cfg(test)]
mod tests;
