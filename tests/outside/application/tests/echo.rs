//! The library's servers on each runtime, and clients that know nothing of runtimes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use application::Runtime;
use reuseport::{AsyncStd, Options, Smol, Std, Tokio};

const PATIENCE: Duration = Duration::from_secs(60);

fn tcp<R: Runtime>() {
    let group = Options::new().group("localhost:0", 1).unwrap();
    let addr = group.local_addr();
    let member = group.into_iter().next().unwrap();
    let server =
        thread::spawn(|| R::run(async { library::serve::<R>(member.attach::<R>()?, 20).await }));
    for i in 0..20 {
        let question = format!("question {i}");
        let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(question.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, question);
    }
    server.join().unwrap().unwrap();
}

fn udp<R: Runtime>() {
    let group = Options::new().packet_group("localhost:0", 1).unwrap();
    let addr = group.local_addr();
    let member = group.into_iter().next().unwrap();
    let server = thread::spawn(|| {
        R::run(async { library::serve_packets::<R>(member.attach::<R>()?, 20).await })
    });
    for i in 0..20 {
        let question = format!("question {i}");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(question.as_bytes(), addr).unwrap();
        let mut buf = [0; 64];
        let (len, peer) = socket.recv_from(&mut buf).unwrap();
        assert_eq!((&buf[..len], peer), (question.as_bytes(), addr));
    }
    server.join().unwrap().unwrap();
}

macro_rules! on {
    ($($name:ident: $runtime:ty;)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn tcp() {
                super::tcp::<$runtime>();
            }

            #[test]
            fn udp() {
                super::udp::<$runtime>();
            }
        })*
    };
}

on! {
    on_std: Std;
    on_tokio: Tokio;
    on_async_std: AsyncStd;
    on_smol: Smol;
}
