//! Strangers that have the name.

use std::io;

use rustix::net::{AddressFamily, SocketType};

use super::strangers::*;
use super::*;
use crate::sys::child::alone;
use crate::sys::linux::meet::find::find_in;
use crate::sys::linux::meet::tables;

type Table = fn(&[u8]) -> io::Result<Vec<tables::Entry>>;

/// What a kernel can tell of names: with users, without, and nothing.
const TABLES: [(&str, Table); 3] = [
    ("sock_diag", tables::dump),
    ("/proc/net/unix", tables::listed),
    ("no table", |_| Err(io::ErrorKind::PermissionDenied.into())),
];

/// A name that another user has, of which `squat` makes something.
fn squatted<T: Send>(squat: impl FnOnce(OwnedFd, &[u8]) -> T + Send) {
    let name = name();
    let squat = || squat(bind(&name), &name);
    let Some(_squat) = as_other("a name that another user has", squat) else {
        return;
    };
    for (what, table) in TABLES {
        let start = Instant::now();
        let found = find_in(table, &name, me(), soon()).unwrap();
        assert!(matches!(found, Found::Nobody), "{what}: {found:?}");
        assert!(start.elapsed() < AT_ONCE, "{what}: {:?}", start.elapsed());
    }
    let start = Instant::now();
    let rendezvous = listen(&name).unwrap();
    assert!(start.elapsed() < AT_ONCE);
    for (what, table) in &TABLES[..2] {
        let start = Instant::now();
        let Found::Line(line) = find_in(table, &name, me(), soon()).unwrap() else {
            panic!("{what}: it is not found");
        };
        let accepted = accept_line(&rendezvous);
        assert!(start.elapsed() < AT_ONCE, "{what}: {:?}", start.elapsed());
        send(line.as_fd(), b"it is I", &[], Some(soon())).unwrap();
        let frame = receive(accepted.as_fd(), Some(soon())).unwrap();
        assert_eq!(frame.bytes, b"it is I");
    }
    // Where the kernel tells nothing there is no line, and no line to another user.
    let found = find_in(TABLES[2].1, &name, me(), soon()).unwrap();
    assert!(matches!(found, Found::Nobody), "{found:?}");
}

#[test]
fn a_name_that_another_user_is_bound_to_is_no_obstacle() {
    squatted(|socket, _| socket);
}

#[test]
fn a_name_at_which_another_user_listens_is_no_obstacle() {
    squatted(|socket, _| {
        rustix::net::listen(&socket, 4096).unwrap();
        socket
    });
}

#[test]
fn a_name_of_another_users_full_queue_is_no_obstacle() {
    squatted(|socket, name| {
        rustix::net::listen(&socket, 0).unwrap();
        let waiting = call(name).unwrap();
        let another = stream_socket();
        rustix::io::ioctl_fionbio(&another, true).unwrap();
        let error = socket::connect_unix(&another, &path(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
        (socket, waiting)
    });
}

#[test]
fn a_name_that_another_user_has_closed_is_no_obstacle() {
    squatted(|socket, _| {
        rustix::net::listen(&socket, 0).unwrap();
        close(socket.as_fd()).unwrap();
        socket
    });
}

#[test]
fn a_name_of_another_users_datagrams_is_no_obstacle() {
    let name = name();
    let datagrams = || {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
        socket::bind_unix(&socket, &path(&name)).unwrap();
        socket
    };
    let Some(_datagrams) = as_other("datagrams at a name", datagrams) else {
        return;
    };
    assert!(matches!(find(&name, me(), soon()).unwrap(), Found::Nobody));
    let rendezvous = listen(&name).unwrap();
    drop(connect(&name));
    drop(accept_line(&rendezvous));
}

/// Among others of the same name the owner's is found, and only the owner's.
#[test]
fn one_of_the_owners_is_found_among_a_thousand() {
    let test = "sys::linux::meet::tests::squat::one_of_the_owners_is_found_among_a_thousand";
    alone(test, || {
        const N: usize = 1000;
        more_descriptors();
        let name = name();
        let others = |n: usize| {
            as_other("rendezvous of another user", || {
                let listen = |name: &[u8]| {
                    let socket = bind(name);
                    rustix::net::listen(&socket, 16).unwrap();
                    socket
                };
                (0..n).map(|_| listen(&own_name(&name))).collect::<Vec<_>>()
            })
        };
        let squat = as_other("a name that another user has", || bind(&name));
        let (Some(_squat), Some(_before)) = (squat, others(N / 2)) else {
            return;
        };
        let rendezvous = listen(&name).unwrap();
        let _after = others(N / 2);
        let start = Instant::now();
        for (what, table) in &TABLES[..2] {
            let start = Instant::now();
            let Found::Line(line) = find_in(table, &name, me(), soon()).unwrap() else {
                panic!("{what}: it is not found");
            };
            let took = start.elapsed();
            assert!(took < AT_ONCE, "{what}: {took:?}");
            drop(accept_line(&rendezvous));
            drop(line);
            measured(&format!("found among {N} in {took:?} ({what})"));
        }
        assert!(start.elapsed() < 2 * AT_ONCE);
        drop(rendezvous);
        let found = find(&name, me(), soon()).unwrap();
        assert!(matches!(found, Found::Nobody), "{found:?}");
    });
}

/// A dump can miss a rendezvous while others come and go.
#[test]
fn what_a_table_misses_once_is_found() {
    let name = name();
    let first = listen(&name).unwrap();
    close(first.as_fd()).unwrap();
    let second = listen(&name).unwrap();
    let looks = std::cell::Cell::new(0);
    let found = find_in(
        |name| {
            looks.set(looks.get() + 1);
            match looks.get() {
                1 => Ok(vec![]),
                _ => tables::entries(name),
            }
        },
        &name,
        me(),
        soon(),
    );
    assert!(matches!(found.unwrap(), Found::Line(_)));
    drop(accept_line(&second));
}
