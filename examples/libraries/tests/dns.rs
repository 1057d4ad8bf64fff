//! The DNS forwarder, on every runtime: over UDP and TCP, with retries and a fallback, and restarts.

#![cfg(target_os = "linux")]

#[macro_use]
mod util;

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use hickory_proto::op::{Message, MessageType, Query};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use libraries::dns;
use reuseport::Serve;
use util::{Clients, Main, PATIENCE, Server, localhost, run};

on_every_runtime!(
    questions_are_forwarded a_lost_datagram_is_sent_again dig_is_content restarts_lose_no_connection
    restarts_lose_no_datagram
);

/// Another server, which knows every name's address and has a long text for each, too long for UDP; it
/// drops the first datagram about a name that begins with "lost".
fn upstream() -> SocketAddr {
    let addr = localhost();
    let listener = TcpListener::bind(addr).unwrap();
    let socket = UdpSocket::bind(addr).unwrap();
    thread::spawn(move || {
        let (mut buf, mut dropped) = ([0; 4096], HashSet::new());
        while let Ok((len, from)) = socket.recv_from(&mut buf) {
            let question = Message::from_vec(&buf[..len]).unwrap();
            let name = question.queries()[0].name().to_string();
            if name.starts_with("lost") && dropped.insert(name) {
                continue;
            }
            socket.send_to(&answer(&question, true), from).unwrap();
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            while let Ok(question) = receive(&mut stream) {
                let question = Message::from_vec(&question).unwrap();
                send(&mut stream, &answer(&question, false)).unwrap();
            }
        }
    });
    addr
}

fn answer(question: &Message, is_short: bool) -> Vec<u8> {
    let query = &question.queries()[0];
    let mut answer = Message::new();
    answer
        .set_id(question.id())
        .set_message_type(MessageType::Response)
        .add_query(query.clone());
    let data = match query.query_type() {
        RecordType::A => RData::A(A(Ipv4Addr::new(192, 0, 2, 1))),
        _ => RData::TXT(TXT::new(vec!["long".repeat(60); 20])),
    };
    if is_short && query.query_type() != RecordType::A {
        answer.set_truncated(true);
    } else {
        answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
    }
    answer.to_vec().unwrap()
}

fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn send(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let mut framed = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed)
}

fn question(name: &str, r#type: RecordType) -> Message {
    let mut question = Message::new();
    let query = Query::query(Name::from_ascii(name).unwrap(), r#type);
    question
        .set_id(7)
        .set_recursion_desired(true)
        .add_query(query);
    question
}

fn check(question: &Message, answer: &[u8]) -> io::Result<()> {
    let answer = Message::from_vec(answer).map_err(io::Error::other)?;
    let is_whole =
        answer.id() == question.id() && answer.answers().len() == 1 && !answer.truncated();
    is_whole
        .then_some(())
        .ok_or_else(|| io::Error::other(format!("{answer:?}")))
}

fn ask_packet(addr: SocketAddr, question: &Message) -> io::Result<()> {
    let socket = UdpSocket::bind((addr.ip(), 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(addr)?;
    socket.send(&question.to_vec().unwrap())?;
    let mut buf = [0; 8192];
    let len = socket.recv(&mut buf)?;
    check(question, &buf[..len])
}

fn ask_stream(addr: SocketAddr, question: &Message, times: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    for _ in 0..times {
        send(&mut stream, &question.to_vec().unwrap())?;
        check(question, &receive(&mut stream)?)?;
    }
    Ok(())
}

fn start<R: Main>(addr: SocketAddr, upstream: SocketAddr) -> Server {
    Server::start::<R, _>(addr, move |listener, generation| async move {
        dns::serve::<R>(generation.incoming::<R>(listener), upstream).await
    })
}

/// The same for datagrams, until the process ends.
fn start_packets<R: Main>(addr: SocketAddr, upstream: SocketAddr) -> reuseport::Generation {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        R::block_on(async {
            let (socket, generation) = R::serve_packet(addr).unwrap();
            tell.send(generation.clone()).unwrap();
            dns::serve_packets::<R>(socket, &generation, upstream)
                .await
                .unwrap();
        });
    });
    let generation = told.recv().unwrap();
    generation.take_over_blocking(PATIENCE).unwrap();
    generation
}

fn questions_are_forwarded<R: Main>() {
    let (addr, upstream) = (localhost(), upstream());
    let server = start::<R>(addr, upstream);
    let packets = start_packets::<R>(addr, upstream);
    ask_packet(addr, &question("example.org.", RecordType::A)).unwrap();
    ask_stream(addr, &question("example.org.", RecordType::A), 3).unwrap();
    // Its answer over UDP is cut, and it is asked again over TCP.
    ask_packet(addr, &question("example.org.", RecordType::TXT)).unwrap();
    ask_stream(addr, &question("example.org.", RecordType::TXT), 3).unwrap();
    packets.stop();
    server.stop();
}

fn a_lost_datagram_is_sent_again<R: Main>() {
    let addr = localhost();
    let packets = start_packets::<R>(addr, upstream());
    ask_packet(addr, &question("lost.example.org.", RecordType::A)).unwrap();
    packets.stop();
}

fn dig_is_content<R: Main>() {
    let (addr, upstream) = (localhost(), upstream());
    let server = start::<R>(addr, upstream);
    let packets = start_packets::<R>(addr, upstream);
    let IpAddr::V4(ip) = addr.ip() else {
        unreachable!("it is an IPv4 address")
    };
    for how in ["+notcp", "+tcp"] {
        let arguments = [
            &format!("@{ip}"),
            "-p",
            "4000",
            "+short",
            how,
            "example.org",
        ];
        if let Some(output) = run("dig", &arguments) {
            assert_eq!(String::from_utf8_lossy(&output.stdout), "192.0.2.1\n");
        }
    }
    packets.stop();
    server.stop();
}

fn restarts_lose_no_connection<R: Main>() {
    let (addr, upstream) = (localhost(), upstream());
    let mut server = start::<R>(addr, upstream);
    server.generation.take_over_blocking(PATIENCE).unwrap();
    let clients = Clients::start(4, move || {
        ask_stream(addr, &question("a.b.", RecordType::A), 2)
    });
    for _ in 0..2 {
        clients.go_on(100);
        let next = start::<R>(addr, upstream);
        next.replaces(server);
        server = next;
    }
    clients.go_on(100);
    clients.end();
    server.stop();
}

fn restarts_lose_no_datagram<R: Main>() {
    let (addr, upstream) = (localhost(), upstream());
    let mut before = start_packets::<R>(addr, upstream);
    let clients = Clients::start(4, move || {
        ask_packet(addr, &question("a.b.", RecordType::A))
    });
    for _ in 0..2 {
        clients.go_on(100);
        let next = start_packets::<R>(addr, upstream);
        before.relieved_blocking();
        before = next;
    }
    clients.go_on(100);
    clients.end();
    before.stop();
}
