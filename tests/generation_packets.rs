//! Generations of UDP sockets: what is queued is read by the one that has it, and flows stay.

#![cfg(target_os = "linux")]

#[path = "util/packets.rs"]
mod packets;
mod util;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use packets::{Packets, send};
use reuseport::{ConnectionIds, Guarantee, Options, Steering, Tokio};
use util::{PATIENCE, Runtime, assert_drained, in_namespace};

/// In a namespace of its own each test has it to itself.
const PORT: u16 = 4000;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

#[test]
fn datagrams_that_are_queued_are_read_by_the_old_one() {
    for (ip, n, m) in [(V4, 3, 3), (V4, 2, 5), (V4, 3, 1), (V6, 2, 2)] {
        in_namespace("datagrams of two generations", || {
            let addr = SocketAddr::new(ip, PORT);
            let old = Packets::open(&Options::new(), addr, n);
            old.take_over();
            assert_eq!(old.generation.guarantee(), Guarantee::Lossless);
            let new = Packets::open(&Options::new(), addr, m);
            send(addr, 60, b"old");
            assert!(new.read().is_empty());
            let taking = new.generation.take_over(PATIENCE);
            // Until the kernel has been told.
            let mut to_old = 59;
            let mut to_new = 0;
            util::until(|| {
                // No more than the old sockets hold, however long that takes.
                if to_old > 200 {
                    thread::sleep(Duration::from_millis(20));
                }
                to_old += 1;
                send(addr, 1, b"now");
                to_new = new.read().len();
                (to_new == 1).then_some(())
            });
            send(addr, 60, b"new");
            assert!(smol::block_on(smol::future::poll_once(old.generation.relieved())).is_none());
            let read = old.read();
            assert_eq!(read.len(), to_old);
            assert!(read.iter().all(|(_, packet)| packet != b"new"));
            assert_drained(smol::block_on(taking));
            old.generation.relieved_blocking();
            send(addr, 60, b"new");
            let read = new.read();
            assert_eq!(read.len(), 120, "{n} to {m}");
            assert!(read.iter().all(|(_, packet)| packet == b"new"));
            assert!(old.read().is_empty());
        });
    }
}

/// What was asked before the takeover is answered after it, by the socket that was asked: a DNS server
/// waits for others meanwhile.
#[test]
fn answers_leave_after_the_takeover() {
    for (ip, n, m) in [(V4, 2, 2), (V6, 1, 1), (V4, 1, 2)] {
        in_namespace("answers after a takeover", || {
            let addr = SocketAddr::new(ip, PORT);
            let old = Packets::open(&Options::new(), addr, n);
            old.take_over();
            let new = Packets::open(&Options::new(), addr, m);
            let client = UdpSocket::bind((ip, 0)).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.connect(addr).unwrap();
            client.send(b"question").unwrap();
            let (asked, from) = util::until(|| {
                let mut sockets = old.sockets.iter();
                sockets.find_map(|(number, socket)| {
                    let (_, from) = socket.recv_from(&mut [0; 64]).ok()?;
                    Some((*number, from))
                })
            });
            new.take_over();
            old.generation.relieved_blocking();
            let (_, socket) = old
                .sockets
                .iter()
                .find(|(number, _)| *number == asked)
                .unwrap();
            socket.send_to(b"answer", from).unwrap();
            let mut answer = [0; 64];
            assert_eq!(client.recv(&mut answer).unwrap(), 6);
            // It is not out of the way before its owner has closed it, and gets nothing all the same.
            send(addr, 60, b"new");
            assert_eq!(new.read().len(), 60);
            assert!(old.read().is_empty());
            let (old, generation) = (old.sockets, old.generation);
            drop(old);
            drop(generation);
            let third = Packets::open(&Options::new(), addr, m);
            third.take_over();
            send(addr, 60, b"new");
            assert_eq!(third.read().len(), 60);
        });
    }
}

/// Who never closes its sockets is waited for as long as can be, and then out of the way.
#[test]
fn one_that_keeps_its_sockets_has_ten_seconds() {
    in_namespace("one that keeps its sockets", || {
        let addr = SocketAddr::new(V4, PORT);
        let old = Packets::open(&Options::new(), addr, 1);
        old.take_over();
        let new = Packets::open(&Options::new(), addr, 1);
        new.take_over();
        let begin = Instant::now();
        let third = Packets::open(&Options::new(), addr, 1);
        let waited = begin.elapsed();
        assert!(waited > Duration::from_secs(8), "{waited:?}");
        third.take_over();
        send(addr, 20, b"new");
        assert_eq!(third.read().len(), 20);
        let (_, socket) = &old.sockets[0];
        let error = socket.send_to(b"too late", addr).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    });
}

/// One that comes to stand in the place of another, while there are more of them, leaves a gap.
#[test]
fn one_that_succeeds_several_says_so() {
    in_namespace("one that succeeds several", || {
        let addr = SocketAddr::new(V4, PORT);
        let old = Packets::open(&Options::new(), addr, 2);
        old.take_over();
        for (m, guarantee) in [(2, Guarantee::Lossless), (1, Guarantee::BestEffort)] {
            let new = Packets::open(&Options::new(), addr, m);
            assert_eq!(new.generation.guarantee(), guarantee, "{m}");
        }
    });
}

#[test]
fn datagrams_that_nobody_reads_are_told() {
    in_namespace("datagrams that nobody reads", || {
        let addr = SocketAddr::new(V4, PORT);
        let old = Packets::open(&Options::new(), addr, 2);
        old.take_over();
        let new = Packets::open(&Options::new(), addr, 2);
        send(addr, 10, b"old");
        let timeout = Duration::from_millis(100);
        let drained = new.generation.take_over_blocking(timeout).unwrap();
        assert_eq!((drained.unaccepted, drained.unread), (0, true));
        old.generation.relieved_blocking();
    });
}

/// Datagrams at a steady pace, while one generation follows the other.
#[test]
fn no_datagram_is_lost() {
    in_namespace("generations under datagrams", || {
        let addr = SocketAddr::new(V4, PORT);
        let sent = Arc::new(AtomicUsize::new(0));
        let read = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let serve = |n: usize| {
            let (group, generation) = Options::new().packet_generation(addr, n).unwrap();
            let workers: Vec<_> = group
                .into_iter()
                .map(|member| {
                    let (relieved, read) = (generation.relieved(), read.clone());
                    thread::spawn(move || {
                        Tokio::block_on(async {
                            let socket = member.attach::<Tokio>().unwrap();
                            let mut relieved = std::pin::pin!(relieved);
                            let mut packet = [0; 64];
                            loop {
                                // Told first: what is read after that is read by nobody.
                                tokio::select! {
                                    biased;
                                    () = &mut relieved => return,
                                    got = socket.recv(&mut packet) => {
                                        assert_eq!(got.unwrap(), 8);
                                        read.fetch_add(1, Ordering::Relaxed);
                                    }
                                }
                            }
                        });
                    })
                })
                .collect();
            (generation, workers)
        };
        let mut old = serve(2);
        assert_drained(old.0.take_over_blocking(PATIENCE));
        let (counted, taken, stopped) = (sent.clone(), read.clone(), stop.clone());
        let sender = thread::spawn(move || {
            let clients: Vec<_> = (0..64).map(|_| UdpSocket::bind((V4, 0)).unwrap()).collect();
            for client in clients.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A processor queues no more than a thousand packets that go over lo (kernel:
                // enqueue_to_backlog), and a socket no more than its buffer holds.
                while counted.load(Ordering::Relaxed) > taken.load(Ordering::Relaxed) + 100 {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    thread::yield_now();
                }
                client.send_to(b"datagram", addr).unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let go_on = || {
            let before = read.load(Ordering::Relaxed);
            util::until(|| (read.load(Ordering::Relaxed) > before + 500).then_some(()));
        };
        for m in [2, 3, 8, 8, 4, 2, 3] {
            go_on();
            let new = serve(m);
            go_on();
            assert_drained(new.0.take_over_blocking(PATIENCE));
            let (generation, workers) = std::mem::replace(&mut old, new);
            generation.relieved_blocking();
            workers
                .into_iter()
                .for_each(|worker| worker.join().unwrap());
        }
        go_on();
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap();
        let all = || sent.load(Ordering::Relaxed) == read.load(Ordering::Relaxed);
        let begin = Instant::now();
        while !all() && begin.elapsed() < Duration::from_secs(2) {
            thread::yield_now();
        }
        let (sent, read) = (sent.load(Ordering::Relaxed), read.load(Ordering::Relaxed));
        println!("{sent} sent, {read} read");
        assert_eq!(sent, read);
        let (_last, generation) = Options::new().packet_generation(addr, 1).unwrap();
        assert_drained(generation.take_over_blocking(PATIENCE));
        old.1.into_iter().for_each(|worker| worker.join().unwrap());
    });
}

#[test]
fn flows_stay_with_the_generation_that_has_them() {
    in_namespace("connection ids of two generations", || {
        let addr = SocketAddr::new(V4, PORT);
        let ids = Steering::ConnectionIds(ConnectionIds::at(0));
        let options = Options::new().steering(ids);
        let old = Packets::open(&options, addr, 3);
        old.take_over();
        let new = Packets::open(&options, addr, 2);
        assert_eq!(old.numbers(), [0, 1, 2]);
        assert_eq!(new.numbers(), [3, 4]);
        let of = |packets: &Packets, id: u8| {
            send(addr, 20, &[id]);
            packets.read()
        };
        // Before the call the old one has what is unknown too.
        assert_eq!(of(&old, 200).len(), 20);
        assert!(new.read().is_empty());
        new.take_over();
        old.generation.relieved_blocking();
        for id in 0..3 {
            let read = of(&old, id);
            assert!(read.iter().all(|(number, _)| *number == usize::from(id)));
            assert_eq!((read.len(), new.read().len()), (20, 0));
        }
        for id in [3, 4, 200] {
            let read = of(&new, id);
            assert!(id == 200 || read.iter().all(|(number, _)| *number == usize::from(id)));
            assert_eq!((read.len(), old.read().len()), (20, 0));
        }
        // Its last flow has ended.
        drop(old);
        // The next one comes when nobody has flows of the one before.
        let next = Packets::open(&options, addr, 4);
        assert_eq!(next.numbers(), [0, 1, 2, 5]);
        for id in [0, 3, 4, 200] {
            assert_eq!(of(&new, id).len(), 20, "{id}");
        }
        next.take_over();
        drop(new);
        util::until(|| {
            send(addr, 1, &[3]);
            (next.read().len() == 1).then_some(())
        });
        for id in [0, 1, 2, 5, 200] {
            assert_eq!(of(&next, id).len(), 20, "{id}");
        }
    });
}
