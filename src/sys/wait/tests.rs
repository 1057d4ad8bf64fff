use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

fn soon() -> Option<Instant> {
    Some(Instant::now() + PATIENCE)
}

#[test]
fn it_tells_which_can_be_read() {
    let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
    let fds: Vec<_> = pairs.iter().map(|(end, _)| end.as_fd()).collect();
    let now = Some(Instant::now());
    assert_eq!(poll(&fds, now).unwrap(), [false; 3]);
    (&pairs[1].1).write_all(b"x").unwrap();
    assert_eq!(poll(&fds, soon()).unwrap(), [false, true, false]);
    // That is past, and still there is one look.
    assert_eq!(poll(&fds, now).unwrap(), [false, true, false]);
    pairs[2].1.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(poll(&fds, None).unwrap(), [false, true, true]);
}

#[test]
fn it_waits_until_then_and_no_less() {
    let (end, _other) = UnixStream::pair().unwrap();
    for wait in [SHORT, Duration::from_nanos(1), Duration::ZERO] {
        let start = Instant::now();
        assert_eq!(poll(&[end.as_fd()], Some(start + wait)).unwrap(), [false]);
        let took = start.elapsed();
        assert!(took >= wait && took < PATIENCE, "{took:?}");
    }
    assert_eq!(poll(&[], Some(Instant::now())).unwrap(), [false; 0]);
}

#[test]
fn any_time_is_one_that_poll_takes() {
    assert_eq!(timeout(None), -1);
    assert_eq!(timeout(Some(Duration::ZERO)), 0);
    assert_eq!(timeout(Some(Duration::from_nanos(1))), 1);
    assert_eq!(timeout(Some(Duration::from_millis(7))), 7);
    assert_eq!(timeout(Some(Duration::from_micros(7001))), 8);
    assert_eq!(timeout(Some(Duration::MAX)), libc::c_int::MAX);
}

#[test]
fn a_bell_ends_a_wait() {
    let bell = Bell::new().unwrap();
    let (end, _other) = UnixStream::pair().unwrap();
    let is_rung = || poll(&[bell.as_fd()], Some(Instant::now())).unwrap() == [true];
    assert!(!is_rung());
    bell.clear().unwrap();
    assert!(!is_rung());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| poll(&[end.as_fd(), bell.as_fd()], soon()).unwrap());
        bell.ring().unwrap();
        assert_eq!(waiting.join().unwrap(), [false, true]);
    });
    // Until it is cleared, and once for any number.
    assert!(is_rung());
    for _ in 0..10_000 {
        bell.ring().unwrap();
    }
    bell.clear().unwrap();
    assert!(!is_rung());
    bell.ring().unwrap();
    assert!(is_rung());
}

#[test]
fn a_bell_that_has_rung_too_often_waits_for_nothing() {
    let bell = Bell::new().unwrap();
    for _ in 0..1_000_000 {
        bell.ring().unwrap();
    }
    bell.clear().unwrap();
    assert_eq!(
        poll(&[bell.as_fd()], Some(Instant::now())).unwrap(),
        [false]
    );
}
