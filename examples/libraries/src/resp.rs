//! A server of the Redis protocol (RESP 2), with the commands of a counter and a cache.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_channel::{Sender, bounded};
use reuseport::{Incoming, Runtime};

/// A client that says nothing for so long is hung up on.
const IDLE: Duration = Duration::from_secs(300);

/// The longest request that is taken, in bytes.
const LONGEST: usize = 1 << 20;

#[derive(Debug, Default)]
pub struct Store(Mutex<HashMap<Vec<u8>, Vec<u8>>>);

impl Store {
    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until the next process takes over, and then until the last client is gone.
pub async fn serve<R: Runtime>(mut incoming: Incoming<R>, store: Arc<Store>) -> io::Result<()> {
    // Each connection has a sender, and it is over when none is left.
    let (alive, ended) = bounded::<()>(1);
    while let Some(accepted) = incoming.accept().await {
        match accepted {
            Ok((stream, _)) => {
                let (alive, store) = (alive.clone(), Arc::clone(&store));
                R::spawn(connection::<R>(stream, store, alive))?;
            }
            // Out of descriptors: there are some when a client goes.
            Err(_) => R::sleep(Duration::from_millis(10)).await,
        }
    }
    drop(alive);
    let _ = ended.recv().await;
    Ok(())
}

async fn connection<R: Runtime>(stream: R::TcpStream, store: Arc<Store>, _alive: Sender<()>) {
    let _ = R::set_nodelay(&stream, true);
    // A client that has gone is no matter to the others.
    let _ = answer::<R>(&stream, &store).await;
}

async fn answer<R: Runtime>(stream: &R::TcpStream, store: &Store) -> io::Result<()> {
    let (mut asked, mut answers, mut buf) = (Vec::new(), Vec::new(), vec![0; 16 << 10]);
    loop {
        // Clients send many requests before they read: all that are there are answered at once.
        let mut rest = &asked[..];
        loop {
            match request(rest) {
                Ok(Some((words, left))) => {
                    rest = left;
                    if run(&words, store, &mut answers) {
                        return R::write_all(stream, &answers).await;
                    }
                }
                Ok(None) => break,
                Err(why) => {
                    answers.extend_from_slice(format!("-ERR Protocol error: {why}\r\n").as_bytes());
                    return R::write_all(stream, &answers).await;
                }
            }
        }
        let done = asked.len() - rest.len();
        asked.drain(..done);
        if !answers.is_empty() {
            R::within(IDLE, R::write_all(stream, &answers)).await?;
            answers.clear();
        }
        match R::within(IDLE, R::read(stream, &mut buf)).await? {
            0 => return Ok(()),
            n => asked.extend_from_slice(&buf[..n]),
        }
    }
}

type Request<'a> = (Vec<&'a [u8]>, &'a [u8]);

/// The words of the first request, and what stands behind it; none where it is not all there.
fn request(bytes: &[u8]) -> Result<Option<Request<'_>>, &'static str> {
    let Some((first, mut rest)) = line(bytes) else {
        return match bytes.len() > LONGEST {
            true => Err("too big request"),
            false => Ok(None),
        };
    };
    let Some(count) = first.strip_prefix(b"*") else {
        // As typed by hand.
        let words = first.split(u8::is_ascii_whitespace);
        return Ok(Some((
            words.filter(|word| !word.is_empty()).collect(),
            rest,
        )));
    };
    let count = number(count, 1024).ok_or("invalid multibulk length")?;
    let mut words = Vec::with_capacity(count);
    while words.len() < count {
        let Some((head, behind)) = line(rest) else {
            return Ok(None);
        };
        let len = head.strip_prefix(b"$").ok_or("expected '$'")?;
        let len = number(len, LONGEST).ok_or("invalid bulk length")?;
        if behind.len() < len + 2 {
            return Ok(None);
        }
        words.push(&behind[..len]);
        rest = &behind[len + 2..];
    }
    Ok(Some((words, rest)))
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    Some((line, &bytes[end + 1..]))
}

fn number(digits: &[u8], most: usize) -> Option<usize> {
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (number <= most).then_some(number)
}

/// Runs a command, and appends its answer; whether the client wants no more.
fn run(words: &[&[u8]], store: &Store, answers: &mut Vec<u8>) -> bool {
    let Some((name, arguments)) = words.split_first() else {
        return false;
    };
    let name = String::from_utf8_lossy(name).to_uppercase();
    match (&*name, arguments) {
        ("PING", []) => simple(answers, "+PONG"),
        ("PING" | "ECHO", [text]) => bulk(answers, Some(text)),
        ("SET", [key, value]) => {
            store.lock().insert(key.to_vec(), value.to_vec());
            simple(answers, "+OK");
        }
        ("GET", [key]) => bulk(answers, store.lock().get(*key).map(|value| &value[..])),
        ("DEL", keys) => {
            let mut all = store.lock();
            let removed = keys
                .iter()
                .filter(|key| all.remove(**key).is_some())
                .count();
            simple(answers, &format!(":{removed}"));
        }
        ("INCR", [key]) => match increment(&mut store.lock(), key) {
            Some(value) => simple(answers, &format!(":{value}")),
            None => simple(answers, "-ERR value is not an integer or out of range"),
        },
        ("DBSIZE", []) => simple(answers, &format!(":{}", store.lock().len())),
        ("CONFIG" | "COMMAND", _) => simple(answers, "*0"),
        ("QUIT", []) => {
            simple(answers, "+OK");
            return true;
        }
        ("PING" | "ECHO" | "SET" | "GET" | "INCR" | "DBSIZE" | "QUIT", _) => {
            simple(
                answers,
                &format!("-ERR wrong number of arguments for '{name}'"),
            );
        }
        _ => simple(answers, &format!("-ERR unknown command '{name}'")),
    }
    false
}

fn increment(all: &mut HashMap<Vec<u8>, Vec<u8>>, key: &[u8]) -> Option<i64> {
    let value = all.entry(key.to_vec()).or_insert_with(|| b"0".to_vec());
    let next = std::str::from_utf8(value)
        .ok()?
        .parse::<i64>()
        .ok()?
        .checked_add(1)?;
    *value = next.to_string().into_bytes();
    Some(next)
}

fn simple(answers: &mut Vec<u8>, line: &str) {
    answers.extend_from_slice(line.as_bytes());
    answers.extend_from_slice(b"\r\n");
}

fn bulk(answers: &mut Vec<u8>, text: Option<&[u8]>) {
    let Some(text) = text else {
        return simple(answers, "$-1");
    };
    simple(answers, &format!("${}", text.len()));
    answers.extend_from_slice(text);
    answers.extend_from_slice(b"\r\n");
}
