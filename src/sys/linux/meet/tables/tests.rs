use super::*;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    text.extend((4 + value.len() as u16).to_ne_bytes());
    text.extend(kind.to_ne_bytes());
    text.extend(value);
    text.resize(text.len().next_multiple_of(4), 0);
    text
}

fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    text.extend((HEADER as u32 + payload.len() as u32).to_ne_bytes());
    text.extend(kind.to_ne_bytes());
    text.extend([0; 10]);
    text.extend(payload);
    text.resize(text.len().next_multiple_of(4), 0);
    text
}

/// A socket as the kernel tells of it.
fn socket(kind: u8, state: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = vec![libc::AF_UNIX as u8, kind, state, 0];
    payload.resize(ANSWER, 7);
    payload.extend(attributes.concat());
    message(SOCK_DIAG_BY_FAMILY, &payload)
}

const STREAM: u8 = libc::SOCK_STREAM as u8;

fn listener(name: &[u8], uid: u32) -> Vec<u8> {
    let uid = attribute(ATTRIBUTE_UID, &uid.to_ne_bytes());
    socket(
        STREAM,
        LISTEN,
        &[attribute(ATTRIBUTE_NAME, name), attribute(6, &[0]), uid],
    )
}

fn read(text: &[u8]) -> io::Result<(Vec<Entry>, bool)> {
    let mut entries = Vec::new();
    let goes_on = read_messages(text, |entry| entries.push(entry))?;
    Ok((entries, goes_on))
}

fn entry(name: &[u8], uid: Option<u32>) -> Entry {
    Entry {
        name: name.to_vec(),
        uid,
    }
}

#[test]
fn listeners_with_names_are_read() {
    let text = [
        listener(b"\0one", 1234),
        // No name, one in a file system, and another state and type.
        socket(STREAM, LISTEN, &[attribute(ATTRIBUTE_UID, &[0; 4])]),
        listener(b"/run/x", 0),
        socket(STREAM, 1, &[attribute(ATTRIBUTE_NAME, b"\0two")]),
        socket(
            libc::SOCK_SEQPACKET as u8,
            LISTEN,
            &[attribute(ATTRIBUTE_NAME, b"\0three")],
        ),
        // Of a kernel that tells no users, and with a name that is none of text.
        socket(STREAM, LISTEN, &[attribute(ATTRIBUTE_NAME, b"\0\0\xff\n")]),
    ]
    .concat();
    let entries = vec![entry(b"one", Some(1234)), entry(b"\0\xff\n", None)];
    assert_eq!(read(&text).unwrap(), (entries.clone(), true));
    let text = [text, message(DONE, &[0; 4]), listener(b"\0late", 1)].concat();
    assert_eq!(read(&text).unwrap(), (entries, false));
    assert_eq!(read(b"").unwrap(), (vec![], true));
    // What is none of these is passed over.
    assert_eq!(read(&message(1, b"whatever")).unwrap(), (vec![], true));
}

#[test]
fn what_the_kernel_refuses_is_told() {
    let errno = |errno: i32| read(&message(ERROR, &errno.to_ne_bytes())).unwrap_err();
    assert_eq!(errno(-libc::ENOENT).raw_os_error(), Some(libc::ENOENT));
    assert_eq!(errno(i32::MIN).raw_os_error(), Some(i32::MIN));
    assert_eq!(
        read(&message(ERROR, b"")).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
}

#[test]
fn broken_messages_are_refused() {
    let with_len = |len: u32| {
        let mut text = listener(b"\0one", 1);
        text[..4].copy_from_slice(&len.to_ne_bytes());
        read(&text).unwrap_err().kind()
    };
    let whole = listener(b"\0one", 1).len() as u32;
    for len in [
        0,
        1,
        15,
        16,
        17,
        whole - 1,
        whole + 1,
        u32::MAX,
        u32::MAX - 3,
    ] {
        assert_eq!(with_len(len), io::ErrorKind::InvalidData, "{len}");
    }
    // An attribute that is longer than the message, or shorter than its own header.
    for len in [0, 1, 3, 9, u16::MAX] {
        let mut attribute = attribute(ATTRIBUTE_NAME, b"\0one");
        attribute[..2].copy_from_slice(&len.to_ne_bytes());
        let error = read(&socket(STREAM, LISTEN, &[attribute])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{len}");
    }
    // A user of fewer bytes than a user has.
    let error = read(&socket(
        STREAM,
        LISTEN,
        &[attribute(ATTRIBUTE_UID, &[1; 3])],
    ))
    .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

/// Some texts of which every byte, and every length, is changed.
fn changed(whole: &[u8], mut check: impl FnMut(&[u8])) {
    for len in 0..=whole.len() {
        check(&whole[..len]);
    }
    let mut text = whole.to_vec();
    for at in 0..text.len() {
        for value in 0..=255 {
            text[at] = value;
            check(&text);
        }
        text[at] = whole[at];
    }
    // Several bytes at once, the same each time.
    let mut random = 1_u64;
    for _ in 0..100_000 {
        let mut text = whole.to_vec();
        for _ in 0..4 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let at = (random >> 33) as usize % text.len();
            text[at] = (random >> 24) as u8;
        }
        check(&text);
    }
}

#[test]
fn no_text_does_worse_than_be_refused() {
    let whole = [
        listener(b"\0one", 1),
        listener(b"\0three", 65_534),
        message(DONE, &[0; 4]),
    ]
    .concat();
    changed(&whole, |text| {
        if let Ok((entries, _)) = read(text) {
            assert!(entries.len() <= 2);
        }
    });
    let line = b"00000000: 00000002 00000000 00010000 0001 01 16405 @name/0123456789abcdef\n";
    changed(line, |text| {
        if let Some(name) = read_line(text, b"name") {
            assert!(is_named(&name, b"name"));
        }
    });
}

#[test]
fn lines_of_the_table_are_read() {
    let read = |line: &str, name: &[u8]| read_line(line.as_bytes(), name);
    let of =
        |path: &str| format!("0000000000000000: 00000002 00000000 00010000 0001 01 16405 {path}\n");
    assert_eq!(read(&of("@name"), b"name").unwrap(), b"name");
    let own = "name/0123456789abcdef";
    assert_eq!(
        read(&of(&format!("@{own}")), b"name").unwrap(),
        own.as_bytes()
    );
    // A zero is shown as @, and so the name may be another; what is asked for is tried.
    assert_eq!(
        read(&of("@a@b@/0123456789abcdef"), b"a\0b@").unwrap(),
        b"a\0b@/0123456789abcdef"
    );
    assert_eq!(
        read(&of("@with a space"), b"with a space").unwrap(),
        b"with a space"
    );
    for path in [
        "@nam",
        "@names",
        "name",
        "@name/",
        "/run/@name",
        "@@name",
        "",
        "@",
    ] {
        assert_eq!(read(&of(path), b"name"), None, "{path}");
    }
    for line in [
        "Num       RefCount Protocol Flags    Type St Inode Path",
        // Not listening, datagrams, and fewer columns.
        "0000000000000000: 00000002 00000000 00000000 0001 03 16405 @name",
        "0000000000000000: 00000002 00000000 00010000 0002 01 16405 @name",
        "0000000000000000: 00000002 00000000 00010000 0001 16405 @name",
        "00010000 0001 @name",
        "@name",
        "",
    ] {
        assert_eq!(read(line, b"name"), None, "{line}");
    }
}

#[test]
fn both_tables_tell_of_a_rendezvous() {
    let name = format!("reuseport-test-tables-{}", std::process::id()).into_bytes();
    let one = super::super::listen(&name).unwrap();
    let two = super::super::listen(&name).unwrap();
    let names = |mut entries: Vec<Entry>| {
        entries.sort_by_key(|entry| entry.name.len());
        entries
    };
    let listed = names(listed(&name).unwrap());
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0], entry(&name, None));
    let me = crate::sys::user();
    let expected: Vec<_> = listed
        .iter()
        .map(|one| entry(&one.name, Some(me)))
        .collect();
    match dump(&name) {
        Ok(entries) => assert_eq!(names(entries), expected),
        Err(error) => {
            let line = format!("not checked: sock_diag of UNIX sockets ({error})\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
    drop((one, two));
}
