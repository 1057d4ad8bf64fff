#![allow(
    unsafe_code,
    reason = "nothing safe handles a signal, or sends one to a thread"
)]

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Whose time is over while another has its turn takes nothing from it, and blocks nobody.
#[test]
fn a_turn_that_is_waited_for_in_vain_is_none() {
    // No socket's inode.
    const NONE: u64 = u64::MAX;
    let turn = |time| Turn::wait(NONE, Instant::now() + time);
    let first = turn(PATIENCE).unwrap();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for _ in 0..2 {
            tell.send(turn(Duration::ZERO).is_some()).unwrap();
        }
    });
    // None the second time either: the first has it still.
    assert_eq!(told.recv_timeout(PATIENCE), Ok(false));
    assert_eq!(told.recv_timeout(PATIENCE), Ok(false));
    drop(first);
    assert!(turn(Duration::ZERO).is_some());
}

extern "C" fn catch(_: libc::c_int) {}

/// Without SA_RESTART the system ends a call that waits, at any signal.
#[test]
fn a_signal_ends_no_call() {
    // SAFETY: zeros are a valid sigaction: no flags, and so no SA_RESTART.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = catch as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler does nothing, and `action` outlives the call.
    let set = unsafe { libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    // SAFETY: it only tells this thread's name.
    let this = unsafe { libc::pthread_self() } as usize;
    let (stop, stopped) = mpsc::channel::<()>();
    let signals = thread::spawn(move || {
        let pause = Duration::from_millis(1);
        while stopped.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
            // SAFETY: the thread lives until `stop` is dropped, and after.
            unsafe { libc::pthread_kill(this as libc::pthread_t, libc::SIGURG) };
        }
    });
    for until in [None, Some(Instant::now() + PATIENCE)] {
        let (client, socket) = (client.try_clone().unwrap(), socket.try_clone().unwrap());
        let (own, to) = (socket.try_clone().unwrap(), addr);
        let late = thread::spawn(move || {
            let pause = || thread::sleep(Duration::from_millis(50));
            pause();
            (&client).write_all(b"x").unwrap();
            pause();
            own.send_to(b"x", to).unwrap();
            pause();
            let mut all = vec![0; 8 << 20];
            (&client).read_exact(&mut all).unwrap();
        });
        assert_eq!(read(&stream, &mut [0; 9], until).unwrap(), 1);
        assert_eq!(recv_from(&socket, &mut [0; 9], until).unwrap().0, 1);
        let all = vec![0; 8 << 20];
        let mut left = &all[..];
        while !left.is_empty() {
            left = &left[write(&stream, left, until).unwrap()..];
        }
        late.join().unwrap();
    }
    drop(stop);
    signals.join().unwrap();
}
