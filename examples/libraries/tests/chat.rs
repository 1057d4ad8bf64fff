//! The chat, on every runtime: both directions at once, halves that are closed, and restarts.

#![cfg(target_os = "linux")]

#[macro_use]
mod util;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use libraries::chat::{self, Room};
use util::{Main, PATIENCE, Server, localhost};

on_every_runtime!(
    all_others_hear many_talk_at_once a_half_is_closed a_slow_one_is_left_out restarts_end_no_talk
);

fn start<R: Main>(addr: SocketAddr, room: &Arc<Room>) -> Server {
    let room = Arc::clone(room);
    Server::start::<R, _>(addr, |listener, generation| async move {
        chat::serve::<R>(generation.incoming::<R>(listener), room).await
    })
}

/// Enters the room, and is in it.
fn enter(addr: SocketAddr, room: &Room) -> BufReader<TcpStream> {
    let before = room.len();
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    until(|| room.len() > before);
    BufReader::new(stream)
}

fn until(is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(1));
    }
}

fn say(client: &BufReader<TcpStream>, line: &str) {
    client.get_ref().write_all(line.as_bytes()).unwrap();
}

fn hear(client: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    line
}

fn all_others_hear<R: Main>() {
    let room = Arc::default();
    let server = start::<R>(localhost(), &room);
    let [mut a, mut b, mut c] = [(); 3].map(|()| enter(server.addr, &room));
    say(&a, "hello\nfrom a\n");
    for client in [&mut b, &mut c] {
        assert_eq!(hear(client), "hello\n");
        assert_eq!(hear(client), "from a\n");
    }
    say(&b, "in ");
    say(&b, "parts\n");
    assert_eq!(hear(&mut a), "in parts\n");
    say(&a, "/quit\n");
    assert_eq!(hear(&mut a), "");
    say(&c, &"long".repeat(2000));
    until(|| room.len() == 1);
    drop((b, c));
    server.stop();
    assert!(room.is_empty());
}

/// Each writes more than any buffer holds while it reads what the other writes.
fn many_talk_at_once<R: Main>() {
    const LINES: usize = 900;
    let room = Arc::default();
    let server = start::<R>(localhost(), &room);
    let clients = [(); 2].map(|()| enter(server.addr, &room));
    let line = format!("{}\n", "x".repeat(999));
    let talks = clients.map(|client| {
        let line = line.clone();
        thread::spawn(move || {
            let mut reads = BufReader::new(client.get_ref().try_clone().unwrap());
            let writing = {
                let line = line.clone();
                thread::spawn(move || (0..LINES).for_each(|_| say(&client, &line)))
            };
            for _ in 0..LINES {
                assert_eq!(hear(&mut reads), line);
            }
            writing.join().unwrap();
        })
    });
    talks.into_iter().for_each(|talk| talk.join().unwrap());
    server.stop();
}

fn a_half_is_closed<R: Main>() {
    let room = Arc::default();
    let server = start::<R>(localhost(), &room);
    let [mut a, mut b] = [(); 2].map(|()| enter(server.addr, &room));
    // What it said before the end is heard, and the others' end of its stream comes after their words.
    say(&a, "goodbye\n");
    a.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(hear(&mut b), "goodbye\n");
    let mut rest = String::new();
    a.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    until(|| room.len() == 1);
    say(&b, "alone\n");
    drop(b);
    server.stop();
}

fn a_slow_one_is_left_out<R: Main>() {
    let room = Arc::default();
    let server = start::<R>(localhost(), &room);
    let [talks, never_reads] = [(); 2].map(|()| enter(server.addr, &room));
    let line = format!("{}\n", "x".repeat(4000));
    let begin = Instant::now();
    while room.len() == 2 {
        assert!(begin.elapsed() < PATIENCE);
        say(&talks, &line);
    }
    say(&talks, "/quit\n");
    drop((talks, never_reads));
    server.stop();
}

/// Those who talk go on in the old process, and those who come are in the new one.
fn restarts_end_no_talk<R: Main>() {
    let rooms: [Arc<Room>; 2] = Default::default();
    let old = start::<R>(localhost(), &rooms[0]);
    let addr = old.addr;
    let [mut a, b] = [(); 2].map(|()| enter(addr, &rooms[0]));
    let new = start::<R>(addr, &rooms[1]);
    new.generation.take_over_blocking(PATIENCE).unwrap();
    let [mut c, d] = [(); 2].map(|()| enter(addr, &rooms[1]));
    say(&b, "still here\n");
    assert_eq!(hear(&mut a), "still here\n");
    say(&d, "new here\n");
    assert_eq!(hear(&mut c), "new here\n");
    assert_eq!((rooms[0].len(), rooms[1].len()), (2, 2));
    drop((a, b));
    old.ends();
    drop((c, d));
    new.stop();
}
