//! As much of HTTP/1.1 as a loop of one's own needs to answer a request without a body.

use crate::who;

/// Takes the first request out of what has come, and returns the answer.
///
/// `None` while the request is not whole.
pub fn answer(received: &mut Vec<u8>, closes: bool) -> Option<Vec<u8>> {
    let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    received.drain(..end + 4);
    let body = who();
    let close = if closes { "Connection: close\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{close}",
        body.len()
    );
    Some(format!("{head}\r\n{body}").into_bytes())
}
