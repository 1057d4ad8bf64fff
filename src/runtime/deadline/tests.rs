use std::pin::Pin;
use std::sync::mpsc;
use std::task::Context;

use smol::block_on;

use super::*;

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(60);

/// What blocks, and ends with an error at this thread's deadline.
async fn blocks(duration: Duration) -> io::Result<()> {
    let until = Instant::now() + duration;
    let ends = current().map_or(until, |current| current.min(until));
    thread::sleep(ends.saturating_duration_since(Instant::now()));
    ended(match ends < until {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(()),
    })
}

fn assert_timed_out<T: std::fmt::Debug>(result: io::Result<T>) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
}

#[test]
fn what_blocks_ends_at_the_deadline() {
    let begin = Instant::now();
    let error = block_on(within(SHORT, blocks(LONG))).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(error.to_string(), "it has taken longer than 20ms");
    assert!(begin.elapsed() >= SHORT && begin.elapsed() < LONG);
    assert_eq!(current(), None);
    block_on(within(LONG, blocks(Duration::ZERO))).unwrap();
}

#[test]
fn an_error_that_is_swallowed_is_none_the_less_the_end() {
    assert_timed_out(block_on(within(SHORT, async {
        blocks(LONG).await.ok();
        Ok(1)
    })));
    assert_timed_out(block_on(within(SHORT, async {
        sleep(LONG);
        Ok(1)
    })));
}

#[test]
fn what_ends_in_time_by_itself_is_kept_although_it_is_late() {
    let late = async {
        thread::sleep(SHORT * 2);
        Ok(1)
    };
    assert_eq!(block_on(within(SHORT, late)).unwrap(), 1);
}

#[test]
fn the_earlier_of_two_deadlines_counts() {
    // The inner one, and the outer one goes on.
    let outer = async {
        assert_timed_out(within(SHORT, blocks(LONG)).await);
        blocks(Duration::ZERO).await?;
        Ok(1)
    };
    assert_eq!(block_on(within(LONG, outer)).unwrap(), 1);
    // The outer one, which ends the inner one too.
    let begin = Instant::now();
    let outer = async {
        assert_timed_out(within(LONG, blocks(LONG)).await);
        Ok(1)
    };
    // The inner one had its time, so that its end was the outer one's.
    assert_timed_out(block_on(within(SHORT, outer)));
    assert!(begin.elapsed() < LONG);
}

#[test]
fn a_deadline_that_no_clock_reaches_is_none() {
    block_on(within(Duration::MAX, blocks(SHORT))).unwrap();
}

#[test]
fn a_future_that_is_suspended_takes_its_deadline_with_it() {
    let suspends = async {
        let mut polls = 0;
        poll_fn(|context| {
            assert!(current().is_some());
            polls += 1;
            context.waker().wake_by_ref();
            if polls < 3 {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        Ok(())
    };
    let mut future = Box::pin(within(LONG, suspends));
    let mut context = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut future).poll(&mut context).is_pending());
    assert_eq!(current(), None);
    block_on(future).unwrap();
}

#[test]
fn what_waits_for_a_channel_is_woken_at_the_deadline() {
    let begin = Instant::now();
    assert_timed_out(block_on(within(
        SHORT,
        std::future::pending::<io::Result<()>>(),
    )));
    assert!(begin.elapsed() >= SHORT);
}

#[test]
fn the_last_waker_is_woken_and_without_a_lock() {
    struct Tells(mpsc::Sender<()>);
    impl std::task::Wake for Tells {
        fn wake(self: Arc<Self>) {
            self.0.send(()).ok();
        }
    }
    let (first, none) = mpsc::channel();
    let (second, told) = mpsc::channel();
    let mut future = Box::pin(within(SHORT, std::future::pending::<io::Result<()>>()));
    for tells in [first, second] {
        let waker = Arc::new(Tells(tells)).into();
        let polled = Pin::new(&mut future).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    told.recv_timeout(LONG).unwrap();
    assert!(none.try_recv().is_err());
    // Its alarm ends with it.
    let shared = {
        let alarm = Alarm::set(Instant::now() + LONG, Waker::noop()).unwrap();
        Arc::downgrade(&alarm.0)
    };
    let begin = Instant::now();
    while shared.strong_count() > 0 {
        assert!(begin.elapsed() < LONG);
        thread::yield_now();
    }
}

/// It rings between a look at the clock and the change of wakers.
#[test]
fn a_waker_that_comes_too_late_is_woken_at_once() {
    struct Tells(mpsc::Sender<()>);
    impl std::task::Wake for Tells {
        fn wake(self: Arc<Self>) {
            self.0.send(()).ok();
        }
    }
    let (tells, told) = mpsc::channel();
    let (tells_late, told_late) = mpsc::channel();
    let alarm = Alarm::set(Instant::now(), &Arc::new(Tells(tells)).into()).unwrap();
    told.recv_timeout(LONG).unwrap();
    alarm.wakes(&Arc::new(Tells(tells_late)).into());
    told_late.recv_timeout(LONG).unwrap();
}
