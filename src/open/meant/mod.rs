//! What a text that is no address was meant to be, and how that is written.

mod v4;
mod v6;

use std::net::Ipv4Addr;

use super::text::{Wrong, parse};
use v6::is_v6;

/// A port for what has none.
const SOME_PORT: &str = "80";

/// What was written instead of an address.
struct Guess {
    why: String,
    /// Nearer to an address, and perhaps one.
    write: Option<String>,
}

/// Completes "cannot use "…" as an address: ". Whatever it says to write is an address.
pub(super) fn explain(text: &str, wrong: &Wrong<'_>) -> String {
    /// As in `" http://*/ "`, which is three steps away.
    const STEPS: usize = 5;
    let Some(guess) = guess(text) else {
        return wrong.to_string();
    };
    let mut next = guess.write;
    let mut wrong = None;
    for _ in 0..STEPS {
        let Some(write) = next else { break };
        match parse(&write) {
            Ok(_) => return format!("{}; write {write:?}", guess.why),
            Err(other) => wrong = Some(other.to_string()).filter(|_| other.is_of_this_machine()),
        }
        next = self::guess(&write).and_then(|guess| guess.write);
    }
    match wrong {
        Some(wrong) => format!("{}; and {wrong}", guess.why),
        None => guess.why,
    }
}

fn guess(text: &str) -> Option<Guess> {
    const WAYS: [fn(&str) -> Option<Guess>; 14] = [
        quoted,
        variable,
        several,
        blank,
        url,
        path,
        scheme,
        lookalike,
        port_only,
        v6::bare,
        v6::bracketed,
        two_colons,
        odd_port,
        odd_host,
    ];
    WAYS.iter().find_map(|way| way(text))
}

fn found(why: impl Into<String>, write: impl Into<Option<String>>) -> Option<Guess> {
    Some(Guess {
        why: why.into(),
        write: write.into(),
    })
}

fn quoted(text: &str) -> Option<Guess> {
    let inside = ['"', '\'', '`']
        .iter()
        .find_map(|&quote| text.strip_prefix(quote)?.strip_suffix(quote))?;
    found("it has quotes around it", inside.to_owned())
}

/// As configurations have them that nothing has filled in.
fn variable(text: &str) -> Option<Guess> {
    if !text.contains(['$', '{', '}', '<', '>']) {
        return None;
    }
    found("it has a variable that was not filled in", None)
}

/// A list, or a port that stands apart.
fn several(text: &str) -> Option<Guess> {
    let apart = |c: char| c.is_whitespace() || c == ',' || c == ';';
    let parts: Vec<_> = text.split(apart).filter(|part| !part.is_empty()).collect();
    let [first, second, ..] = parts[..] else {
        return None;
    };
    if is_digits(second) && parts.len() == 2 && !first.ends_with(':') && parse(first).is_err() {
        let why = "a colon stands between an address and its port";
        return found(why, with_port(first, second));
    }
    let is_one = |part: &&str| match part.rsplit_once(':') {
        Some((host, port)) => is_digits(port) && !host.ends_with(':') || host.is_empty(),
        None => false,
    };
    let n = parts.iter().filter(|part| is_one(part)).count();
    if n < 2 {
        return None;
    }
    let why = format!("it names {n} addresses, and a socket has one: open a socket for each");
    let first = parts.iter().find(|part| parse(part).is_ok());
    match first {
        Some(first) => found(
            format!("{why}, the first with {first:?}"),
            // The sentence has it.
            None,
        ),
        None => found(why, None),
    }
}

/// Spaces, ends of lines and what is not seen at all.
fn blank(text: &str) -> Option<Guess> {
    let is_blank = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(
                c,
                '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{ad}'
            )
    };
    if !text.contains(is_blank) {
        return None;
    }
    let write = text.replace(is_blank, "");
    if write.is_empty() {
        return found(
            "it is blank; write \":80\" for every address, or \":0\" for a free port",
            None,
        );
    }
    let why = match text.contains(' ') {
        true => "it has a blank in it",
        false => "it has a character in it that is not seen",
    };
    // Of two numbers none is made.
    let is_inside = text.trim_matches(is_blank).split(is_blank).any(is_digits);
    found(
        why,
        Some(write).filter(|_| !is_inside || text.contains(": ")),
    )
}

fn url(text: &str) -> Option<Guess> {
    let (scheme, rest) = match text.strip_prefix("//") {
        Some(rest) => ("", rest),
        None => text.split_once("://")?,
    };
    if scheme.eq_ignore_ascii_case("unix") || scheme.eq_ignore_ascii_case("file") {
        return path(rest).or_else(|| path("/"));
    }
    if let Some(guess) = self::scheme(&format!("{scheme}:")).filter(|guess| guess.write.is_none()) {
        return Some(guess);
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let port = match scheme.to_ascii_lowercase().as_str() {
        "https" | "wss" => "443",
        _ => SOME_PORT,
    };
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| is_digits(port));
    let write = match has_port {
        true => Some(host.to_owned()),
        false => with_port(host.trim_end_matches(':'), port),
    };
    found(
        "it is a URL, and an address is its host and port only",
        write,
    )
}

fn path(text: &str) -> Option<Guess> {
    const STARTS: [&str; 11] = [
        "/", "./", "../", "~", "\\", "@", "\0", "unix:", "file:", "ipc:", "npipe:",
    ];
    let starts = |start: &&str| {
        text.get(..start.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(start))
    };
    // As `C:\pipe`.
    let is_drive =
        matches!(text.as_bytes(), [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic());
    if !STARTS.iter().any(starts) && !is_drive {
        return None;
    }
    found(
        "it is the path of a UNIX socket or a file, which has no port to share",
        None,
    )
}

/// As `tcp:127.0.0.1:80`.
fn scheme(text: &str) -> Option<Guess> {
    const SCHEMES: [&str; 14] = [
        "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "ip", "ipv4", "ipv6", "inet", "inet6",
        "quic", "http", "https",
    ];
    let (scheme, rest) = text.split_once(':')?;
    if ["fd", "sd", "systemd"].contains(&scheme) {
        return found("it names a descriptor, which ReusePort::adopt takes", None);
    }
    let is_scheme = SCHEMES
        .iter()
        .any(|other| scheme.eq_ignore_ascii_case(other));
    if !is_scheme {
        return None;
    }
    found(
        format!("{scheme:?} is no part of an address"),
        rest.to_owned(),
    )
}

/// Digits and punctuation of other scripts, and full-width ones.
fn lookalike(text: &str) -> Option<Guess> {
    /// The zeros of decimal digits that keyboards have: Arabic, Persian, Devanagari, Bengali, Thai
    /// and full-width.
    const ZEROS: [u32; 6] = [0x660, 0x6f0, 0x966, 0x9e6, 0xe50, 0xff10];
    let plain = |c: char| {
        let digit = |&zero: &u32| u32::from(c).checked_sub(zero).filter(|&digit| digit < 10);
        match ZEROS.iter().find_map(digit) {
            Some(digit) => char::from_digit(digit, 10).unwrap_or(c),
            None => match c {
                '\u{ff1a}' | '\u{2236}' | '\u{a789}' => ':',
                '\u{ff0e}' | '\u{3002}' | '\u{2024}' => '.',
                '\u{ff3b}' => '[',
                '\u{ff3d}' => ']',
                other => other,
            },
        }
    };
    let write: String = text.chars().map(plain).collect();
    if write == text {
        return None;
    }
    found(
        "it has digits or signs that only look like those of an address",
        write,
    )
}

/// `8080` and `80:`.
fn port_only(text: &str) -> Option<Guess> {
    let port = text.strip_suffix(':').unwrap_or(text);
    if port.is_empty() && text == ":" {
        return found(format!("it has no port, as in \":{SOME_PORT}\""), None);
    }
    if !is_digits(port) {
        return None;
    }
    if port.parse::<u16>().is_err() {
        return found(format!("port {port} is larger than 65535"), None);
    }
    let why = match port == text {
        true => "it is a port without a colon",
        false => "a port stands behind its colon",
    };
    found(why, format!(":{port}"))
}

/// As `127.0.0.1::80`.
fn two_colons(text: &str) -> Option<Guess> {
    if !text.contains("::") || text.contains('[') {
        return None;
    }
    found("it has two colons in a row", text.replace("::", ":"))
}

/// A port with a sign, in hexadecimal digits, by its name or with something behind it.
fn odd_port(text: &str) -> Option<Guess> {
    let (host, port) = text.rsplit_once(':')?;
    if is_digits(port) || port.is_empty() {
        return None;
    }
    let named = match port.to_ascii_lowercase().as_str() {
        "http" | "ws" => Some("80".to_owned()),
        "https" | "wss" => Some("443".to_owned()),
        _ => None,
    };
    let hexadecimal = || {
        let digits = port.strip_prefix("0x").or(port.strip_prefix("0X"))?;
        u16::from_str_radix(digits, 16)
            .ok()
            .map(|port| port.to_string())
    };
    let leading = || {
        let port = port.strip_prefix('+').unwrap_or(port);
        let end = port.find(|c: char| !c.is_ascii_digit());
        let (digits, rest) = port.split_at_checked(end.unwrap_or(port.len()))?;
        let is_apart = !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        (is_apart && !digits.is_empty()).then(|| digits.to_owned())
    };
    let port_number = named.or_else(hexadecimal).or_else(leading);
    found(
        format!("{port:?} is no port number"),
        port_number.map(|port| format!("{host}:{port}")),
    )
}

/// What stands before a port, or alone.
fn odd_host(text: &str) -> Option<Guess> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port).filter(|port| !port.is_empty())),
        None => (text, None),
    };
    let shown = port.unwrap_or(SOME_PORT);
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return None;
    }
    let known = match host.to_ascii_lowercase().as_str() {
        "*" | "+" | "0" | "any" | "all" | "_" => {
            return found(
                format!("{host:?} is no address, and every address is written as none"),
                format!(":{shown}"),
            );
        }
        "localhost." | "localhost.localdomain" | "localhost4" | "ip4-localhost" => {
            Some("localhost")
        }
        "localhost6" | "ip6-localhost" | "ip6-loopback" => Some("[::1]"),
        _ => None,
    };
    if let Some(known) = known {
        return found(
            format!("{host:?} is a name that is not looked up"),
            format!("{known}:{shown}"),
        );
    }
    if port.is_none() && (host.eq_ignore_ascii_case("localhost") || is_v4(host)) {
        return found("it has no port", format!("{host}:{shown}"));
    }
    if let Some((ip, _)) = host.split_once('/').filter(|(ip, _)| is_v4(ip)) {
        return found("it is a network, and no address", format!("{ip}:{shown}"));
    }
    if let Some((ip, zone)) = host.split_once('%').filter(|(ip, _)| is_v4(ip)) {
        let why = format!(
            "an IPv4 address has no zone, as {zone:?} is (Options::device restricts a socket to an interface)"
        );
        return found(why, format!("{ip}:{shown}"));
    }
    v4::numbers(host, port)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_v4(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
}

fn with_port(host: &str, port: &str) -> Option<String> {
    match () {
        () if host.is_empty() => None,
        () if is_v6(host) => Some(format!("[{host}]:{port}")),
        () => Some(format!("{host}:{port}")),
    }
}
