//! IPv6 addresses without their brackets, or with other brackets.

use std::net::Ipv6Addr;

use super::{Guess, SOME_PORT, found, is_digits};
use crate::open::text::parse;

/// `::1`, `::1:80` and `fe80::1%lo:80`. What is an address and a port is an address as a whole too,
/// and was hardly meant so.
pub(super) fn bare(text: &str) -> Option<Guess> {
    let why = "an IPv6 address stands in brackets";
    // But `::1` is an address of which every machine has one.
    if let Some(port) = text.strip_prefix("::").filter(|&port| port != "1") {
        if is_digits(port) {
            return found(why, format!("[::]:{port}"));
        }
    }
    if let Some((host, port)) = text.rsplit_once(':') {
        if is_v6(host) && is_digits(port) {
            return found(why, format!("[{host}]:{port}"));
        }
    }
    let host = text
        .strip_suffix(':')
        .filter(|host| is_v6(host))
        .unwrap_or(text);
    if !is_v6(host) {
        return None;
    }
    found(
        format!("{why}, and its port behind them"),
        format!("[{host}]:{SOME_PORT}"),
    )
}

/// What has a bracket on one side or on both.
pub(super) fn bracketed(text: &str) -> Option<Guess> {
    if !text.contains(['[', ']']) {
        return None;
    }
    let rest = text.strip_prefix('[').unwrap_or(text);
    let (inside, port) = match rest.split_once(']') {
        Some((inside, port)) => (inside, port.trim_start_matches(':')),
        // The bracket that closes is missing: before the port, if there is one.
        None => match rest.rsplit_once(':') {
            Some((inside, port)) if is_v6(inside) && is_digits(port) => (inside, port),
            _ => (rest, ""),
        },
    };
    let has_port = is_digits(port);
    let shown = if has_port { port } else { SOME_PORT };
    let is_whole = text.starts_with('[') && rest.contains(']');
    if is_v6(inside) {
        if let Some((ip, zone)) = inside.split_once("%25").filter(|_| is_whole && has_port) {
            let why = "its zone is written as in a URL, where \"%25\" stands for \"%\"";
            return found(why, format!("[{ip}%{zone}]:{port}"));
        }
        let why = match (is_whole, has_port) {
            // Its zone is no interface.
            (true, true) if parse(text).is_err() && text.contains("]:") => return None,
            (true, true) => "a colon stands between the bracket and the port",
            (true, false) if !port.is_empty() => return None,
            (true, false) => "it has no port",
            (false, _) => "its brackets do not match",
        };
        return found(why, format!("[{inside}]:{shown}"));
    }
    if is_whole && inside.is_empty() {
        return found("there is nothing in its brackets", format!("[::]:{shown}"));
    }
    if !is_whole {
        return None;
    }
    found(
        "only an IPv6 address stands in brackets",
        format!("{inside}:{shown}"),
    )
}

/// Whether it is an IPv6 address, with a zone or without.
pub(super) fn is_v6(text: &str) -> bool {
    let ip = text.split('%').next().unwrap_or_default();
    ip.parse::<Ipv6Addr>().is_ok()
}
