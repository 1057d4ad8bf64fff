//! How long the waits of both sides are.

use super::*;

#[test]
fn no_wait_is_longer_than_the_timeout() {
    const SHORT: Duration = Duration::from_millis(50);
    #[track_caller]
    fn times_out(f: impl FnOnce() -> io::Result<()>) {
        let start = Instant::now();
        let error = f().unwrap_err();
        let took = start.elapsed();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(took >= SHORT && took < PATIENCE, "{took:?}");
    }
    let (a, b) = pair();
    set_timeout(a.as_fd(), SHORT).unwrap();
    set_timeout(b.as_fd(), SHORT).unwrap();
    times_out(|| receive(b.as_fd(), None).map(drop));
    // Nobody answers.
    times_out(|| send(a.as_fd(), b"", &lend(&sockets(1)), None));
    // Nobody reads.
    times_out(|| {
        loop {
            send(a.as_fd(), &[0; MAX_BYTES], &[], None)?;
        }
    });
    // Nothing is not forever.
    let (a, _b) = pair();
    for short in [Duration::ZERO, Duration::from_nanos(1)] {
        set_timeout(a.as_fd(), short).unwrap();
        let error = receive(a.as_fd(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
    // The longest is not too long.
    set_timeout(a.as_fd(), Duration::MAX).unwrap();
}

/// A time that is up, however it is given.
#[track_caller]
fn is_up(wait: Duration, f: impl FnOnce(Instant) -> io::Result<()>) {
    let start = Instant::now();
    let error = f(start + wait).unwrap_err();
    let took = start.elapsed();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(took >= wait && took < wait + PATIENCE / 10, "{took:?}");
}

/// All that waits, in both modes, with deadlines and with timeouts of the socket's own.
fn waits_are_up(wait: Duration) {
    for pair in [pair(), nonblocking(pair())] {
        let (a, b) = pair;
        for end in [&a, &b] {
            set_timeout(end.as_fd(), wait).unwrap();
        }
        for at in [Some, |_| None] {
            is_up(wait, |until| receive(b.as_fd(), at(until)).map(drop));
        }
        // An answer does not come.
        for at in [Some, |_| None] {
            is_up(wait, |until| {
                send(a.as_fd(), b"", &lend(&sockets(1)), at(until))
            });
        }
        // There is no more room.
        let full = || while put(a.as_fd(), &[0; 4096], &[]).is_ok() {};
        full();
        for at in [Some, |_| None] {
            is_up(wait, |until| {
                send(a.as_fd(), &[0; MAX_BYTES], &[], at(until))
            });
        }
        // Half a frame is there.
        let (a, b) = nonblocking(super::tests::pair());
        put(a.as_fd(), &frame(5, 0, b"hal"), &[]).unwrap();
        is_up(wait, |until| receive(b.as_fd(), Some(until)).map(drop));
    }
}

#[test]
fn no_wait_is_longer_than_its_deadline() {
    waits_are_up(Duration::from_millis(50));
    // A deadline that is over is one look at what is there.
    let (a, b) = pair();
    let over = Some(Instant::now());
    send(a.as_fd(), b"there", &[], over).unwrap();
    assert_eq!(receive(b.as_fd(), over).unwrap().bytes, b"there");
    is_up(Duration::ZERO, |_| receive(b.as_fd(), over).map(drop));
}

/// A signal every 50 ms starts no wait of 300 ms anew.
#[test]
fn no_signal_moves_a_deadline() {
    alone(
        "sys::pass::tests::deadlines::no_signal_moves_a_deadline",
        || {
            extern "C" fn catch(_: libc::c_int) {}
            // SAFETY: zeros are a valid sigaction: no flags, and so no SA_RESTART.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = catch as extern "C" fn(libc::c_int) as libc::sighandler_t;
            // SAFETY: the handler does nothing.
            check(unsafe { libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()) })
                .unwrap();
            // SAFETY: it only tells.
            let this = unsafe { libc::pthread_self() } as usize;
            let is_over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        // SAFETY: that thread waits for this one at the end of the scope.
                        unsafe { libc::pthread_kill(this as libc::pthread_t, libc::SIGALRM) };
                        thread::sleep(Duration::from_millis(50));
                    }
                });
                waits_are_up(Duration::from_millis(300));
                let until = Instant::now() + Duration::from_millis(300);
                let (a, _b) = pair();
                assert_eq!(wait::poll(&[a.as_fd()], Some(until)).unwrap(), [false]);
                assert!(until.elapsed() < PATIENCE / 10);
                is_over.store(true, Ordering::Relaxed);
            });
        },
    );
}

/// Neither bytes that trickle in nor chunks that go on for ever move it.
#[test]
fn no_peer_moves_a_deadline() {
    const WAIT: Duration = Duration::from_millis(200);
    let trickle = |socket: &UnixStream| {
        for byte in frame(MAX_BYTES as u32, 0, &[0; MAX_BYTES]) {
            if put(socket.as_fd(), &[byte], &[]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    };
    let (a, b) = pair();
    thread::scope(|scope| {
        scope.spawn(move || trickle(&a));
        let b = b;
        is_up(WAIT, |until| receive(b.as_fd(), Some(until)).map(drop));
    });
    // Each chunk is answered at once, and there are too many of them.
    let one = sockets(1);
    let many = vec![one[0].as_fd(); MAX_FDS];
    let (a, b) = pair();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut whole = [0; HEADER];
            let mut stream = Stream::new(b.as_fd(), soon()).unwrap();
            stream.fill(&mut whole).unwrap();
            while stream.fill(&mut [0]).is_ok() {
                stream.arrived.fds.clear();
                thread::sleep(Duration::from_millis(5));
                let _ = stream.put(&[TAKEN], &[]);
            }
        });
        let a = a;
        is_up(WAIT, |until| send(a.as_fd(), b"", &many, Some(until)));
    });
}

#[test]
fn a_signal_interrupts_nothing() {
    alone(
        "sys::pass::tests::deadlines::a_signal_interrupts_nothing",
        || {
            static CAUGHT: AtomicBool = AtomicBool::new(false);
            extern "C" fn catch(_: libc::c_int) {
                CAUGHT.store(true, Ordering::Relaxed);
            }
            // SAFETY: zeros are a valid sigaction: no flags, and so no SA_RESTART.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = catch as extern "C" fn(libc::c_int) as libc::sighandler_t;
            // SAFETY: the handler does nothing but store into an atomic.
            check(unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) })
                .unwrap();
            let (a, b) = pair();
            // SAFETY: it only tells.
            let this = unsafe { libc::pthread_self() } as usize;
            thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..20 {
                        // SAFETY: that thread waits for this one at the end of the scope.
                        unsafe { libc::pthread_kill(this as libc::pthread_t, libc::SIGUSR1) };
                        thread::sleep(Duration::from_millis(1));
                    }
                    send(a.as_fd(), b"late", &[], None).unwrap();
                });
                assert_eq!(receive(b.as_fd(), None).unwrap().bytes, b"late");
            });
            assert!(CAUGHT.load(Ordering::Relaxed));
        },
    );
}
