//! The sockets on a port, from the kernel's tables, and the processes that have them.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::thread;

use super::descriptors::holders;
use super::table::{self, LISTEN, Row};
use super::{diag, queue};
use crate::sys::{Kind, Occupant, Process, Protocol};

pub(crate) fn occupants(port: u16) -> io::Result<Vec<Occupant>> {
    let mut occupants = BTreeMap::new();
    for (kind, protocol) in [(Kind::Tcp, Protocol::Tcp), (Kind::Udp, Protocol::Udp)] {
        let rows = match diag::own(kind, port) {
            Ok(rows) => rows,
            Err(_) => listed(kind, port)?,
        };
        for row in rows {
            let occupant = Occupant {
                protocol,
                addr: row.local,
                peer: Some(row.remote).filter(|peer| peer.port() != 0),
                inode: row.inode,
                uid: row.uid,
                waiting: row.waiting,
                limit: row.limit,
                drops: row.drops,
                ours: false,
                processes: Vec::new(),
            };
            occupants.insert(row.inode, occupant);
        }
    }
    if !occupants.is_empty() {
        find_processes(port, &mut occupants)?;
    }
    Ok(occupants.into_values().collect())
}

/// What the tables say, without the zeros that gVisor writes for what it does not know.
fn listed(kind: Kind, port: u16) -> io::Result<Vec<Row>> {
    let is_own = |row: &Row| kind == Kind::Udp || row.state == LISTEN;
    let mut rows = table::rows(kind, |row| row.local.port() == port && is_own(row))?;
    if !queue::is_told()? {
        for row in &mut rows {
            (row.waiting, row.drops) = (None, None);
        }
    }
    Ok(rows)
}

/// The inodes of the TCP connections on the port.
fn connections(port: u16) -> HashSet<u64> {
    let is_one = |row: &Row| row.local.port() == port && row.state != LISTEN;
    diag::connections(port).unwrap_or_else(|_| {
        let rows = table::rows(Kind::Tcp, is_one).unwrap_or_default();
        rows.iter().map(|row| row.inode).collect()
    })
}

/// Adds to each socket, by its inode, the processes that have a descriptor of it.
fn find_processes(port: u16, occupants: &mut BTreeMap<u64, Occupant>) -> io::Result<()> {
    let wanted = occupants.keys().copied().collect();
    // Each takes as long as the machine has connections, and as it has descriptors.
    let (connections, holders) = thread::scope(|scope| {
        let thread = thread::Builder::new().name("reuseport-connections".to_owned());
        let asked = thread.spawn_scoped(scope, || connections(port));
        let holders = holders(&wanted);
        let connections = match asked.map(|thread| thread.join()) {
            Ok(Ok(connections)) => connections,
            _ => connections(port),
        };
        (connections, holders)
    });
    for holder in holders? {
        let (is_wanted, sockets) = (|inode: &&u64| wanted.contains(*inode), &holder.sockets);
        let process = Process {
            id: holder.id,
            name: holder.name,
            connections: sockets
                .iter()
                .copied()
                .filter(|inode| connections.contains(inode))
                .collect(),
        };
        for inode in sockets.iter().filter(is_wanted) {
            if let Some(occupant) = occupants.get_mut(inode) {
                occupant.ours |= holder.is_this;
                occupant.processes.push(process.clone());
            }
        }
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Instant;

    use super::super::drain::remove;
    use super::super::testing::{
        V4, group, in_namespace, inode_of, limit_descriptors, listener, until,
    };
    use super::*;
    use crate::sys::Socket;
    use crate::sys::child::{Child, alone, role};

    #[test]
    fn listeners_and_the_connections_of_their_processes_are_told() {
        let group = group(V4, 2);
        let addr = group[0].local_addr().unwrap();
        let clients = [(); 3].map(|()| TcpStream::connect(addr).unwrap());
        let accept = || group.iter().find_map(|listener| listener.accept().ok());
        let servers = [(); 3].map(|()| until(accept).0);
        let occupants = occupants(addr.port()).unwrap();
        assert_eq!(occupants.len(), 2);
        let mut expected: Vec<_> = servers.iter().map(inode_of).collect();
        expected.sort_unstable();
        for (listener, occupant) in group.iter().zip(occupants) {
            assert_eq!(occupant.inode, inode_of(listener));
            assert!(occupant.ours);
            let own = occupant
                .processes
                .iter()
                .find(|process| process.id == std::process::id());
            assert_eq!(own.unwrap().connections, expected);
        }
        drop(clients);
    }

    /// None is one answer, and no descriptor to look with is another.
    #[test]
    fn without_a_descriptor_to_look_with_there_is_an_error() {
        const TEST: &str =
            "sys::linux::occupants::tests::without_a_descriptor_to_look_with_there_is_an_error";
        alone(TEST, || {
            let listener = listener(V4);
            let port = listener.local_addr().unwrap().port();
            let mut kept = Vec::new();
            limit_descriptors(|_| 64);
            while let Ok(file) = std::fs::File::open("/dev/null") {
                kept.push(file);
            }
            for _ in 0..8 {
                let told = occupants(port);
                match &told {
                    Ok(told) => assert!(told[0].ours && told[0].processes.len() == 1),
                    Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EMFILE)),
                }
                assert!(told.is_err() || kept.len() < 64);
                kept.pop();
            }
        });
    }

    #[test]
    #[ignore = "a measurement"]
    fn a_hundred_thousand_connections() {
        const TEST: &str = "sys::linux::occupants::tests::a_hundred_thousand_connections";
        const EACH: u16 = 8_000;
        const PROCESSES: u8 = 13;
        if let Some(role) = role() {
            return hold(role.parse().unwrap(), EACH);
        }
        in_namespace("a hundred thousand connections", || {
            let busy = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = busy.local_addr().unwrap().port();
            let quiet = listener(V4);
            let fd = || Some(busy.try_clone().unwrap().into());
            let start = |nth: u8| Child::start(TEST, &nth.to_string(), fd());
            let children: Vec<_> = (1..=PROCESSES).map(start).collect();
            let all = usize::from(EACH) * usize::from(PROCESSES);
            let deadline = Instant::now() + std::time::Duration::from_secs(300);
            while diag::connections(port).unwrap().len() < all {
                if Instant::now() > deadline {
                    remove(Kind::Tcp, busy.as_fd());
                    children.into_iter().for_each(Child::passes);
                    panic!("too slow");
                }
                thread::sleep(std::time::Duration::from_millis(200));
            }
            // The processor's time of all threads, on however busy a machine.
            let timed = |what: &str, work: &dyn Fn() -> usize| {
                let (start, before) = (Instant::now(), processor_time());
                let n = work();
                let (took, spent) = (start.elapsed(), processor_time() - before);
                eprintln!("{what}: {n} in {spent:?}, which took {took:?}");
            };
            let measure = |what, port| {
                eprintln!("{what}");
                timed("  listeners", &|| diag::own(Kind::Tcp, port).unwrap().len());
                timed("  connections", &|| connections(port).len());
                timed("  processes", &|| holders(&HashSet::new()).unwrap().len());
                timed("  all", &|| occupants(port).unwrap()[0].processes.len());
            };
            measure("their port", port);
            measure("another port", quiet.local_addr().unwrap().port());
            remove(Kind::Tcp, busy.as_fd());
            children.into_iter().for_each(Child::passes);
        });
    }

    fn processor_time() -> std::time::Duration {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the pointer is to room for one timespec.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
        assert_eq!(result, 0);
        std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    /// So many connections, and as many other ends as it gets, until the listener on descriptor 0 is shut down.
    fn hold(nth: u8, n: u16) {
        limit_descriptors(|most| most);
        let stdin = std::io::stdin();
        let listener = TcpListener::from(stdin.as_fd().try_clone_to_owned().unwrap());
        let addr = listener.local_addr().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                listener
                    .incoming()
                    .map_while(Result::ok)
                    .collect::<Vec<_>>()
                    .len()
            });
            let connect = |port| {
                let from: SocketAddr = ([127, 0, nth, 1], port).into();
                let socket = Socket::new(Kind::Tcp, &from, false).unwrap();
                socket.bind(&from).unwrap();
                socket.connect(&addr).unwrap();
                socket.into_stream()
            };
            let clients: Vec<_> = (20_000..20_000 + n).map(connect).collect();
            // Until the other end closes, which it does when the listener has been shut down.
            let mut last = clients.last().unwrap();
            let _ = std::io::Read::read(&mut last, &mut [0]);
        });
    }
}
