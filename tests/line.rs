//! The line and the load of the soak tests do what they are to do.

#![cfg(target_os = "linux")]

#[path = "util/link.rs"]
mod link;
#[path = "util/load.rs"]
mod load;
mod util;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use link::Link;
use load::{Counters, Load};
use reuseport::{Options, Std};
use socket2::SockRef;
use util::{addr_of, in_namespace};

const ROUND_TRIP: Duration = Duration::from_millis(20);

/// What one measures would be different beside another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(to: SocketAddr) -> Load {
    Load {
        to: vec![to],
        connections: 20_000,
        per_second: 10_000,
        at_most: 2_000,
        timeout: Duration::from_secs(10),
    }
}

#[test]
fn the_line_takes_its_time_and_loses_nothing() {
    let _alone = alone();
    let descriptors = util::descriptors();
    let Some(link) = Link::new("a line that loses nothing", ROUND_TRIP, 0.0) else {
        return;
    };
    for addr in Link::SERVER {
        let listener = link.on_server(|| TcpListener::bind((addr, 0)).unwrap());
        let to = listener.local_addr().unwrap();
        let (mut took, counted) = link.on_client(|| {
            let before = Counters::read();
            let took: Vec<_> = (0..50)
                .map(|_| {
                    let begin = Instant::now();
                    TcpStream::connect(to).unwrap();
                    begin.elapsed()
                })
                .collect();
            (took, Counters::read().since(&before))
        });
        took.sort();
        let median = took[took.len() / 2];
        println!("{to}: {:?} {median:?} {:?}", took[0], took[took.len() - 1]);
        assert!(took[0] >= ROUND_TRIP, "{took:?}");
        // Machines are busy.
        assert!(median < ROUND_TRIP * 5, "{took:?}");
        assert_eq!(counted, Counters::default(), "{counted}");
    }
    assert_eq!((link.lost(), link.dropped()), (0, 0));
    drop(link);
    assert_eq!(util::descriptors(), descriptors);
}

#[test]
fn the_line_loses_what_it_is_to_lose() {
    let _alone = alone();
    let Some(link) = Link::new("a line that loses a third", ROUND_TRIP, 30.0) else {
        return;
    };
    // The kernel alone ends the handshakes: nobody accepts, and nobody answers.
    let listener = link.on_server(|| {
        let addr = SocketAddr::new(Link::SERVER[0], 0);
        Options::new().listen::<Std>(addr).unwrap()
    });
    let (outcomes, counted) = link.on_client(|| {
        let before = Counters::read();
        let load = Load {
            connections: 1_000,
            timeout: Duration::from_millis(1_500),
            ..load(listener.local_addr().unwrap())
        };
        (load.run(), Counters::read().since(&before))
    });
    let (carried, lost) = (link.carried() as f64, link.lost() as f64);
    println!("a line that loses 30 %: {outcomes}; {counted}");
    outcomes.assert_complete(1_000);
    assert_eq!(outcomes.timed_out, 1_000, "{outcomes}");
    // Of half of them the SYN or its answer was lost, and the SYN is sent again after a second.
    assert!((400..600).contains(&counted.syn_retrans), "{counted}");
    let lost = lost / (carried + lost);
    assert!((0.27..0.33).contains(&lost), "{lost}");
    assert_eq!(link.dropped(), 0);
}

#[test]
fn each_connection_is_counted_as_what_it_was() {
    let _alone = alone();
    in_namespace("what a load counts", || {
        let ends: [fn(TcpStream); 4] = [
            |mut stream| stream.write_all(&[255]).unwrap(),
            |mut stream| stream.write_all(&[0, 0]).unwrap(),
            drop,
            |stream| {
                let now = Some(Duration::ZERO);
                SockRef::from(&stream).set_linger(now).unwrap();
            },
        ];
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (nobody, silent) = (listen(), listen());
        let mut to = vec![addr_of(&nobody), addr_of(&silent)];
        let servers = ends.map(|end| {
            let listener = listen();
            to.push(addr_of(&listener));
            thread::spawn(move || {
                for _ in 0..20 {
                    let mut stream = listener.accept().unwrap().0;
                    stream.read_exact(&mut [0]).unwrap();
                    end(stream);
                }
            })
        });
        // Only now, or another of these may get its port.
        drop(nobody);
        let load = Load {
            connections: 20 * to.len(),
            timeout: Duration::from_secs(1),
            to,
            ..load(addr_of(&silent))
        };
        let outcomes = load.run();
        for server in servers {
            server.join().unwrap();
        }
        outcomes.assert_complete(120);
        let counted = [
            outcomes.refused,
            outcomes.timed_out,
            outcomes.wrong,
            outcomes.eof,
            outcomes.reset,
        ];
        assert_eq!(counted, [20, 20, 40, 20, 20], "{outcomes}");
    });
}
