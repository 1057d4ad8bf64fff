//! Generations.
#![cfg(target_os = "linux")]
#[macro_use]
mod util;
use reuseport::{Options, Promise};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

fn answer(listener: &std::net::TcpListener, c: u8) -> bool {
    match listener.accept() {
        Ok((mut s, _)) => {
            s.set_nonblocking(false).unwrap();
            s.write_all(&[c]).unwrap();
            true
        }
        Err(_) => false,
    }
}

#[test]
fn takes_over() {
    for (n, m) in [(1, 1), (2, 2), (2, 3), (3, 1), (8, 8), (8, 3)] {
        let port = {
            let l = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            l.local_addr().unwrap()
        };
        let (g1, gen1) = Options::new().generation(port, n).unwrap();
        assert_eq!(gen1.predecessor(), None);
        let olds: Vec<_> = g1.into_iter().map(|m| m.into_std()).collect();
        assert_eq!(gen1.take_over_blocking(Duration::from_secs(1)).unwrap(), 0);
        let ask = |addr: SocketAddr| {
            let mut c = TcpStream::connect(addr).unwrap();
            let mut b = [0];
            c.read_exact(&mut b).unwrap();
            b[0]
        };
        let t: Vec<_> = olds
            .into_iter()
            .map(|l| {
                std::thread::spawn(move || {
                    let mut k = 0;
                    while answer(&l, 1) {
                        k += 1
                    }
                    k
                })
            })
            .collect();
        for _ in 0..20 {
            assert_eq!(ask(port), 1);
        }
        let begin = std::time::Instant::now();
        let (g2, gen2) = Options::new().generation(port, m).unwrap();
        assert_eq!(gen2.predecessor(), Some(std::process::id()));
        assert_eq!(gen2.promise(), Promise::Lossless);
        let news: Vec<_> = g2.into_iter().map(|m| m.into_std()).collect();
        for _ in 0..20 {
            assert_eq!(ask(port), 1);
        }
        let t2: Vec<_> = news
            .into_iter()
            .map(|l| std::thread::spawn(move || while answer(&l, 2) {}))
            .collect();
        assert_eq!(gen2.take_over_blocking(Duration::from_secs(10)).unwrap(), 0);
        gen1.relieved_blocking();
        eprintln!("{n} {m}: {:?}", begin.elapsed());
        for _ in 0..20 {
            assert_eq!(ask(port), 2);
        }
        let total: usize = t.into_iter().map(|t| t.join().unwrap()).sum();
        assert_eq!(total, 40);
        let (_g3, gen3) = Options::new().generation(port, 1).unwrap();
        gen3.take_over_blocking(Duration::from_secs(10)).unwrap();
        for t in t2 {
            t.join().unwrap();
        }
    }
}
