//! IPv4 addresses that are written as other programs write them.

use std::net::Ipv4Addr;

use super::{Guess, SOME_PORT, found, is_digits, is_v4};

/// Numbers with dots that are no IPv4 address as the crate takes it.
pub(super) fn numbers(host: &str, port: Option<&str>) -> Option<Guess> {
    let shown = port.unwrap_or(SOME_PORT);
    let parts: Vec<_> = host.split('.').collect();
    if !parts.iter().all(|part| number(part).is_some()) {
        let is_trailing = host.strip_suffix('.').is_some_and(is_v4);
        return match is_trailing {
            true => found(
                "an IPv4 address ends without a dot",
                format!("{}:{shown}", host.trim_end_matches('.')),
            ),
            false => None,
        };
    }
    if let [a, b, c, d, last] = parts[..] {
        // As netstat of the BSDs writes it.
        return match port {
            None => found(
                "a colon stands between an address and its port",
                format!("{a}.{b}.{c}.{d}:{last}"),
            ),
            Some(_) => found(
                "an IPv4 address has four numbers, and this one has five",
                None,
            ),
        };
    }
    if parts.len() > 4 {
        let why = format!(
            "an IPv4 address has four numbers, and this one has {}",
            parts.len()
        );
        return found(why, None);
    }
    if parts.len() == 4 && parts.iter().all(|part| is_digits(part)) {
        let large = parts
            .iter()
            .find(|part| number_of_digits(part).is_none_or(|number| number > 255));
        if let Some(large) = large {
            return found(format!("{large} is larger than 255"), None);
        }
        let ip = parts
            .iter()
            .filter_map(|part| number_of_digits(part))
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
            .join(".");
        let why = "its numbers begin with 0, which some programs read as octal";
        return found(why, format!("{ip}:{shown}"));
    }
    if let ([one], Some(_)) = (&parts[..], port) {
        if number_of_digits(one).is_some_and(|number| number <= u16::MAX.into()) {
            return found("it has two ports", format!(":{shown}"));
        }
    }
    // inet_aton(3): the last number fills the bytes that are left, and others stand for one each.
    let (last, bytes) = parts.split_last()?;
    let mut ip: u64 = 0;
    for byte in bytes {
        ip = ip << 8 | number(byte).filter(|&byte| byte < 256)?;
    }
    let left = 8 * (4 - bytes.len() as u32);
    let last = number(last).filter(|&last| last < 1 << left)?;
    let ip = u32::try_from(ip << left | last).ok()?;
    found(
        "an IPv4 address is written as four decimal numbers",
        format!("{}:{shown}", Ipv4Addr::from(ip)),
    )
}

/// Hexadecimal with 0x, as inet_aton(3) reads it, and else decimal, also where it begins with 0.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => number_of_digits(text),
    }
}

fn number_of_digits(text: &str) -> Option<u64> {
    is_digits(text).then(|| text.parse().ok()).flatten()
}
