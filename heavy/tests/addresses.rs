//! What is no address is told apart by what was meant, and what is advised is an address.

#![cfg(target_os = "linux")]

#[path = "../../tests/util/mod.rs"]
mod util;

use std::io::ErrorKind;

use proptest::prelude::*;
use reuseport::{Family, Options, Std, ToAddr};

/// Why a text is no address, and what is advised; the same for all calls, and nothing is opened.
fn refusal(text: &str) -> Option<(String, Option<String>)> {
    let error = Options::new().group(text, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let sentence = error.to_string();
    let why = sentence.strip_prefix(&format!("cannot use {text:?} as an address: "))?;
    // The shape of an advice: a text in quotes behind "; write ".
    let advice = why.rsplit_once("; write \"").and_then(|(why, quoted)| {
        let advice = quoted.strip_suffix('"')?;
        Some((why.to_owned(), Some(advice.to_owned())))
    });
    Some(advice.unwrap_or((why.to_owned(), None)))
}

fn is_address(text: &str) -> bool {
    refusal(text).is_none()
}

#[test]
fn what_was_meant_is_said() {
    let port = "it is a port without a colon";
    let brackets = "an IPv6 address stands in brackets";
    let behind = "an IPv6 address stands in brackets, and its port behind them";
    let no_port = "it has no port";
    let url = "it is a URL, and an address is its host and port only";
    let path = "it is the path of a UNIX socket or a file, which has no port to share";
    let alike = "it has digits or signs that only look like those of an address";
    let blank = "it has a blank in it";
    let unseen = "it has a character in it that is not seen";
    let colon = "a colon stands between an address and its port";
    let decimal = "an IPv4 address is written as four decimal numbers";
    let octal = "its numbers begin with 0, which some programs read as octal";
    let unmatched = "its brackets do not match";
    let bracketed = "only an IPv6 address stands in brackets";
    let variable = "it has a variable that was not filled in";
    let table = [
        ("8080", port, ":8080"),
        ("80:", "a port stands behind its colon", ":80"),
        (":", "it has no port, as in \":80\"", ""),
        ("localhost", no_port, "localhost:80"),
        ("LOCALHOST:", no_port, "LOCALHOST:80"),
        ("127.0.0.1", no_port, "127.0.0.1:80"),
        ("127.0.0.1:", no_port, "127.0.0.1:80"),
        ("[::1]", no_port, "[::1]:80"),
        ("[::1]:", no_port, "[::1]:80"),
        ("[::ffff:1.2.3.4]", no_port, "[::ffff:1.2.3.4]:80"),
        ("::", behind, "[::]:80"),
        ("::1", behind, "[::1]:80"),
        ("fe80::1", behind, "[fe80::1]:80"),
        ("1:2:3:4:5:6:7:8", behind, "[1:2:3:4:5:6:7:8]:80"),
        ("::1:80", brackets, "[::1]:80"),
        (":::80", brackets, "[::]:80"),
        ("::80", brackets, "[::]:80"),
        ("2001:db8::1:443", brackets, "[2001:db8::1]:443"),
        ("fe80::1%lo:80", brackets, "[fe80::1%lo]:80"),
        ("::ffff:127.0.0.1:80", brackets, "[::ffff:127.0.0.1]:80"),
        ("[::1:80", unmatched, "[::1]:80"),
        ("::1]:80", unmatched, "[::1]:80"),
        (
            "[::1]80",
            "a colon stands between the bracket and the port",
            "[::1]:80",
        ),
        ("[]:80", "there is nothing in its brackets", "[::]:80"),
        ("[127.0.0.1]:80", bracketed, "127.0.0.1:80"),
        ("[localhost]", bracketed, "localhost:80"),
        ("[*]:80", bracketed, ":80"),
        (
            "[fe80::1%25lo]:80",
            "its zone is written as in a URL, where \"%25\" stands for \"%\"",
            "[fe80::1%lo]:80",
        ),
        ("http://localhost:8080/x?y#z", url, "localhost:8080"),
        ("https://localhost", url, "localhost:443"),
        ("http://127.0.0.1/", url, "127.0.0.1:80"),
        ("ws://[::1]/", url, "[::1]:80"),
        ("http://*:80", url, ":80"),
        ("https://user:secret@127.0.0.1:8443/", url, "127.0.0.1:8443"),
        ("//127.0.0.1:80/", url, "127.0.0.1:80"),
        (
            "tcp:127.0.0.1:80",
            "\"tcp\" is no part of an address",
            "127.0.0.1:80",
        ),
        ("UDP:80", "\"UDP\" is no part of an address", ":80"),
        (
            "fd://3",
            "it names a descriptor, which ReusePort::adopt takes",
            "",
        ),
        ("/run/app.sock", path, ""),
        ("./app.sock", path, ""),
        ("unix:/run/app.sock", path, ""),
        ("unix:///run/app.sock", path, ""),
        ("UNIX:@app", path, ""),
        ("@x", path, ""),
        ("\\\\.\\pipe\\app", path, ""),
        ("C:\\app.sock", path, ""),
        (
            "*:80",
            "\"*\" is no address, and every address is written as none",
            ":80",
        ),
        (
            "0:80",
            "\"0\" is no address, and every address is written as none",
            ":80",
        ),
        (
            "any:80",
            "\"any\" is no address, and every address is written as none",
            ":80",
        ),
        (
            "*",
            "\"*\" is no address, and every address is written as none",
            ":80",
        ),
        (
            "localhost.localdomain:80",
            "\"localhost.localdomain\" is a name that is not looked up",
            "localhost:80",
        ),
        (
            "ip6-localhost:80",
            "\"ip6-localhost\" is a name that is not looked up",
            "[::1]:80",
        ),
        (
            "a:80,b:80",
            "it names 2 addresses, and a socket has one: open a socket for each",
            "",
        ),
        (
            "127.0.0.1:80, [::1]:80; :81",
            "it names 3 addresses, and a socket has one: open a socket for each, the first with \
             \"127.0.0.1:80\"",
            "",
        ),
        ("127.0.0.1 80", colon, "127.0.0.1:80"),
        ("127.0.0.1,80", colon, "127.0.0.1:80"),
        ("::1 80", colon, "[::1]:80"),
        ("127.0.0.1.80", colon, "127.0.0.1:80"),
        (" 127.0.0.1:80", blank, "127.0.0.1:80"),
        ("127.0.0.1 :80", blank, "127.0.0.1:80"),
        ("127.0.0.1: 80", blank, "127.0.0.1:80"),
        ("127.0.0.1:80 80", blank, ""),
        (" http://0 ", blank, ":80"),
        ("127.0.0.1:80\n", unseen, "127.0.0.1:80"),
        ("127.0.0.1:80\0", unseen, "127.0.0.1:80"),
        ("\u{feff}127.0.0.1:80", unseen, "127.0.0.1:80"),
        (
            "\"127.0.0.1:80\"",
            "it has quotes around it",
            "127.0.0.1:80",
        ),
        ("'::1'", "it has quotes around it", "[::1]:80"),
        ("127.0.0.1:\u{ff18}\u{ff10}", alike, "127.0.0.1:80"),
        ("127.0.0.1\u{ff1a}80", alike, "127.0.0.1:80"),
        ("\u{668}\u{660}", alike, ":80"),
        ("127.0.0.01:80", octal, "127.0.0.1:80"),
        ("010.0.0.1:80", octal, "10.0.0.1:80"),
        ("127.1:80", decimal, "127.0.0.1:80"),
        ("2130706433:80", decimal, "127.0.0.1:80"),
        ("0x7f.1:80", decimal, "127.0.0.1:80"),
        ("256.0.0.1:80", "256 is larger than 255", ""),
        (
            "1.2.3.4.5:80",
            "an IPv4 address has four numbers, and this one has five",
            "",
        ),
        (
            "127.0.0.1.:80",
            "an IPv4 address ends without a dot",
            "127.0.0.1:80",
        ),
        (
            "127.0.0.1/8:80",
            "it is a network, and no address",
            "127.0.0.1:80",
        ),
        ("8080:80", "it has two ports", ":80"),
        (
            "127.0.0.1::80",
            "it has two colons in a row",
            "127.0.0.1:80",
        ),
        ("127.0.0.1:65536", "port 65536 is larger than 65535", ""),
        (
            "[::1]:99999999999999999999",
            "port 99999999999999999999 is larger than 65535",
            "",
        ),
        ("65536", "port 65536 is larger than 65535", ""),
        ("127.0.0.1:-1", "\"-1\" is no port number", ""),
        ("127.0.0.1:+80", "\"+80\" is no port number", "127.0.0.1:80"),
        (
            "127.0.0.1:0x50",
            "\"0x50\" is no port number",
            "127.0.0.1:80",
        ),
        (
            "127.0.0.1:https",
            "\"https\" is no port number",
            "127.0.0.1:443",
        ),
        (
            "127.0.0.1:80/tcp",
            "\"80/tcp\" is no port number",
            "127.0.0.1:80",
        ),
        ("127.0.0.1:1_000", "\"1_000\" is no port number", ""),
        ("127.0.0.1:zero", "\"zero\" is no port number", ""),
        ("0.0.0.0:${PORT}", variable, ""),
        ("$HOST:80", variable, ""),
        (
            "127.0.0.1%lo:80",
            "an IPv4 address has no zone, as \"lo\" is (Options::device restricts a socket to an \
             interface)",
            "127.0.0.1:80",
        ),
        ("example.com", "it has no port, as in \"127.0.0.1:80\"", ""),
        ("[", "its brackets do not match, as in \"[::1]:80\"", ""),
    ];
    for (text, why, advice) in table {
        let advice = Some(advice.to_owned()).filter(|advice| !advice.is_empty());
        let refusal = refusal(text);
        assert_eq!(refusal, Some((why.to_owned(), advice.clone())), "{text:?}");
        if let Some(advice) = advice {
            assert!(is_address(&advice), "{text:?}: {advice:?}");
        }
    }
}

/// Two are advised, and both are addresses.
#[test]
fn an_empty_text_is_told_what_there_is() {
    for (text, what) in [("", "empty"), (" ", "blank"), ("\t\r\n", "blank")] {
        let error = Options::new().group(text, 1).unwrap_err().to_string();
        let why =
            format!("it is {what}; write \":80\" for every address, or \":0\" for a free port");
        assert!(error.ends_with(&why), "{error}");
    }
    assert!(is_address(":80") && is_address(":0"));
}

#[test]
fn names_are_not_looked_up() {
    for name in ["example.com", "a-b", "ü", "user@host", "..."] {
        let (why, _) = refusal(&format!("{name}:80")).unwrap();
        let words = format!(
            "{name:?} is a name, and only addresses are taken; Net::lookup finds the addresses of a name"
        );
        assert_eq!(why, words);
    }
    let (why, _) = refusal("https://example.com/").unwrap();
    assert!(
        why.starts_with("it is a URL, ") && why.contains("; and \"example.com\" is a name"),
        "{why}"
    );
}

#[test]
fn zones_are_interfaces() {
    for zone in ["nowhere0", "", "0", "a\u{301}b", "4294967296", "lo%lo"] {
        let (why, _) = refusal(&format!("[fe80::1%{zone}]:80")).unwrap();
        let words = format!("there is no network interface {zone:?}: ");
        assert!(why.starts_with(&words), "{zone:?}: {why}");
    }
    for text in ["[fe80::1%lo]:80", "[fe80::1%1]:80"] {
        assert!(is_address(text), "{text}");
    }
}

/// Each way to open says the same of a text, and of a family.
#[test]
fn every_call_says_the_same() {
    fn all(options: &Options, addr: impl ToAddr + Clone) -> String {
        let errors = [
            options.listen::<Std>(addr.clone()).map(drop).unwrap_err(),
            options
                .listen_packet::<Std>(addr.clone())
                .map(drop)
                .unwrap_err(),
            options.group(addr.clone(), 2).map(drop).unwrap_err(),
            options.packet_group(addr.clone(), 2).map(drop).unwrap_err(),
            options.generation(addr.clone(), 2).map(drop).unwrap_err(),
            options.packet_generation(addr, 2).map(drop).unwrap_err(),
        ];
        for error in &errors {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert_eq!(error.to_string(), errors[0].to_string());
        }
        errors[0].to_string()
    }
    assert_eq!(
        all(&Options::new(), "8080"),
        "cannot use \"8080\" as an address: it is a port without a colon; write \":8080\""
    );
    let only = |family| Options::new().family(family);
    assert_eq!(
        all(&only(Family::V4), "[::1]:80"),
        "cannot use [::1]:80: it is an IPv6 address, and Family::V4 was asked for"
    );
    for addr in ["127.0.0.1:80", "[::ffff:127.0.0.1]:80"] {
        assert_eq!(
            all(&only(Family::V6), addr),
            "cannot use 127.0.0.1:80: it is an IPv4 address, and Family::V6 was asked for"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// Pieces of addresses in any order: whatever is advised is an address.
    #[test]
    fn what_is_advised_is_an_address(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                ":", "::", ".", "/", "//", "://", "[", "]", "%", "%25", "lo", "80", "0", "00", "1", "127.0.0.1",
                "::1", "fe80::1", "localhost", "http", "unix", "tcp", "fd", "*", "+", "-", "@", "\"", "'", " ", ",",
                ";", "\0", "\n", "\u{feff}", "\u{ff10}", "\u{ff1a}", "0x", "a", "ü", "$", "99999", "256",
            ]),
            0..9,
        )
    ) {
        let text = pieces.concat();
        if let Some((_, Some(advice))) = refusal(&text) {
            // Where two are advised.
            if !advice.contains(" for ") {
                prop_assert!(is_address(&advice), "{:?}: {:?}", text, advice);
            }
        }
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,40}|.{0,20}") {
        refusal(&text);
    }
}
