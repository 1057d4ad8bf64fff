//! A chat: each line of one client goes to all others, and each reads and writes at once.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender, bounded};
use reuseport::{Incoming, Runtime};

/// A client that reads so many lines too slowly is left out.
const BEHIND: usize = 1000;

/// The longest line that is taken, in bytes.
const LONGEST: usize = 4 << 10;

type Line = Arc<[u8]>;

/// Those who are there, by their numbers.
#[derive(Debug, Default)]
pub struct Room {
    members: Mutex<(u64, HashMap<u64, Sender<Line>>)>,
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Sender<Line>>)> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> (u64, Receiver<Line>) {
        let (sender, lines) = bounded(BEHIND);
        let (next, members) = &mut *self.lock();
        *next += 1;
        members.insert(*next, sender);
        (*next, lines)
    }

    /// What waits for a member is still written, and then its direction ends.
    fn leave(&self, number: u64) {
        self.lock().1.remove(&number);
    }

    fn tell(&self, from: u64, line: &[u8]) {
        let line = Line::from(line);
        let (_, members) = &mut *self.lock();
        members
            .retain(|&number, member| number == from || member.try_send(Arc::clone(&line)).is_ok());
    }

    /// How many are there.
    pub fn len(&self) -> usize {
        self.lock().1.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Serves until the next process takes over, and then until the last client is gone.
pub async fn serve<R: Runtime>(mut incoming: Incoming<R>, room: Arc<Room>) -> io::Result<()> {
    let (alive, ended) = bounded::<()>(1);
    while let Some(accepted) = incoming.accept().await {
        match accepted {
            Ok((stream, _)) => {
                let (room, alive) = (Arc::clone(&room), alive.clone());
                R::spawn(connection::<R>(stream, room, alive))?;
            }
            Err(_) => R::sleep(Duration::from_millis(10)).await,
        }
    }
    drop(alive);
    let _ = ended.recv().await;
    Ok(())
}

async fn connection<R: Runtime>(stream: R::TcpStream, room: Arc<Room>, alive: Sender<()>) {
    let stream = Arc::new(stream);
    let (number, lines) = room.enter();
    let writes = Arc::clone(&stream);
    let writing = R::spawn(async move {
        let _alive = alive;
        while let Ok(line) = lines.recv().await {
            if R::write_all(&writes, &line).await.is_err() {
                break;
            }
        }
        // The client learns that no more comes, and can still be read.
        let _ = R::shutdown(&writes, Shutdown::Write);
    });
    if writing.is_ok() {
        let _ = listen::<R>(&stream, number, &room).await;
    }
    // It said that it says no more, by the end of its stream or by /quit: what the others have said by
    // now is still written.
    room.leave(number);
}

async fn listen<R: Runtime>(stream: &R::TcpStream, number: u64, room: &Room) -> io::Result<()> {
    let (mut said, mut buf) = (Vec::new(), [0; 1024]);
    while let n @ 1.. = R::read(stream, &mut buf).await? {
        said.extend_from_slice(&buf[..n]);
        while let Some(end) = said.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = said.drain(..=end).collect();
            match &line[..] {
                b"/quit\n" | b"/quit\r\n" => return Ok(()),
                line => room.tell(number, line),
            }
        }
        if said.len() > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(())
}
