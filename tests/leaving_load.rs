//! Of eight members seven leave at once, again and again, while clients come: none of them fails.

#![cfg(target_os = "linux")]

#[path = "util/members.rs"]
mod members;
mod util;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use members::{HERE, places, ways};
use reuseport::{Family, Member, Options, Steering};
use util::assert_drained;

/// Answers each connection with the byte that it sends, until the listener has left; a connection
/// that sends nothing ends it too.
fn serve(member: Member<TcpListener>, served: &Arc<AtomicUsize>) {
    let served = Arc::clone(served);
    std::thread::spawn(move || {
        let listener = member.into_std();
        while let Ok((mut stream, _)) = listener.accept() {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_err() {
                break;
            }
            stream.write_all(&byte).unwrap();
            served.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Connects until it is told to stop, and fails where a single connection is not answered.
fn connect_on_and_on(ways: &[SocketAddr], done: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let (ways, done) = (ways.to_vec(), Arc::clone(done));
    std::thread::spawn(move || {
        let mut sent = 0;
        while !done.load(Ordering::Relaxed) {
            let way = ways[sent % ways.len()];
            let mut stream = TcpStream::connect(way).expect("it is taken");
            let limit = Some(Duration::from_secs(20));
            stream.set_read_timeout(limit).unwrap();
            let (byte, mut answer) = ([sent as u8], [0]);
            stream.write_all(&byte).expect("it is taken");
            stream.read_exact(&mut answer).expect("and answered");
            assert_eq!(answer, byte);
            sent += 1;
        }
        sent
    })
}

fn seven_of_eight_leave_under_load(steering: &Steering, (family, prefix): (Family, &str)) {
    const MEMBERS: usize = 8;
    let options = Options::new().steering(steering.clone()).family(family);
    let group = options.group(format!("{prefix}0"), MEMBERS).unwrap();
    let ways = ways(group.local_addr(), family);
    let roster = group.roster();
    let (done, served) = (Arc::default(), Arc::default());
    group.into_iter().for_each(|member| serve(member, &served));
    let clients = [(); 2].map(|()| connect_on_and_on(&ways, &done));
    let give_up = Instant::now() + Duration::from_secs(120);
    let mut stayer = 0;
    for round in 0.. {
        let leavers = (0..MEMBERS).filter(|&number| number != stayer);
        let leaving: Vec<_> = leavers
            .map(|number| roster.leave(number).unwrap())
            .collect();
        for leaving in leaving {
            assert_drained(leaving.wait());
        }
        assert_eq!(places(&roster), [stayer]);
        if round >= 2 && served.load(Ordering::Relaxed) >= 1_000 {
            break;
        }
        assert!(Instant::now() < give_up, "there is a load: {served:?}");
        (1..MEMBERS).for_each(|_| serve(roster.join().unwrap(), &served));
        // Another stays each time: the newest and the oldest too.
        stayer = places(&roster)[(round * 3 + 7) % MEMBERS];
    }
    done.store(true, Ordering::Relaxed);
    let sent: usize = clients.map(|client| client.join().unwrap()).iter().sum();
    assert!(sent >= 1_000);
    util::until(|| (served.load(Ordering::Relaxed) == sent).then_some(()));
    // The worker that is left.
    drop(TcpStream::connect(ways[0]).unwrap());
}

#[test]
fn under_load_ipv4() {
    seven_of_eight_leave_under_load(&Steering::Hash, HERE);
}

#[test]
fn under_load_ipv6() {
    seven_of_eight_leave_under_load(&Steering::Hash, (Family::Any, "[::1]:"));
}

#[test]
fn under_load_of_both() {
    seven_of_eight_leave_under_load(&Steering::Hash, (Family::Any, ":"));
}

#[test]
fn under_load_by_processor() {
    seven_of_eight_leave_under_load(&Steering::Cpu, HERE);
}

#[test]
fn under_load_by_weights() {
    let weights = Steering::Weights(vec![1, 2, 3, 4, 5, 6, 7, 8]);
    seven_of_eight_leave_under_load(&weights, (Family::Any, ":"));
}

#[test]
fn under_load_without_a_privilege() {
    util::as_user(65_534, "leaving without a privilege", || {
        seven_of_eight_leave_under_load(&Steering::Hash, HERE);
    });
}
