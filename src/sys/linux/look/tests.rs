use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::super::answer::answer;
use super::super::testing::{
    V4, V6, defer, group, in_namespace, inode_of, limit_descriptors, listener, on_thread, skip,
    until,
};
use super::super::{drain, queue, steer};
use super::*;
use crate::sys::child::alone;
use crate::sys::{Dispatch, Instruction};

/// On a machine with few connections; by the tables; and by the dumps alone.
const WAYS: [(bool, usize); 3] = [(true, MOST), (false, usize::MAX), (false, 0)];

fn only_to(group: &[TcpListener], place: u32) {
    let ret = Instruction {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: place,
    };
    steer::dispatch(group[0].as_fd(), &Dispatch::Program(vec![ret])).unwrap();
}

fn inodes(listeners: &[TcpListener]) -> HashSet<u64> {
    listeners.iter().map(inode_of).collect()
}

fn take(addr: &SocketAddr, inodes: &HashSet<u64>, (is_idle, others): (bool, usize)) -> Look {
    Look::take_by(addr, inodes, is_idle, others).unwrap()
}

/// What each of a group has left, in one way.
struct Counter {
    group: Vec<TcpListener>,
    way: (bool, usize),
    since: Vec<Option<HashSet<u64>>>,
}

impl Counter {
    fn new(addr: SocketAddr, way: (bool, usize)) -> Self {
        let group = group(addr, 2);
        group.iter().for_each(defer);
        Self {
            group,
            way,
            since: vec![None, None],
        }
    }

    fn addr(&self) -> SocketAddr {
        self.group[0].local_addr().unwrap()
    }

    fn connect(&self, n: usize) -> Vec<TcpStream> {
        let clients = (0..n).map(|_| TcpStream::connect(self.addr()).unwrap());
        clients.collect()
    }

    fn left(&mut self, place: usize) -> Option<u32> {
        let look = take(&self.addr(), &inodes(&self.group), self.way);
        look.left(inode_of(&self.group[place]), &mut self.since[place])
    }

    fn is_sure(&self, place: usize) -> bool {
        let look = take(&self.addr(), &inodes(&self.group), self.way);
        look.is_sure(inode_of(&self.group[place]))
    }

    fn queued(&self, place: usize) -> u32 {
        queue(self.group[place].as_fd()).unwrap().waiting
    }
}

#[test]
fn half_open_and_queued_requests_are_counted_in_both_ways() {
    for (addr, way) in [V4, V6]
        .into_iter()
        .flat_map(|addr| WAYS.map(|way| (addr, way)))
    {
        let mut counter = Counter::new(addr, way);
        let case = format!("{addr} {way:?}");
        assert_eq!(
            (counter.left(0), counter.left(1)),
            (Some(0), Some(0)),
            "{case}"
        );
        // A request may be in neither dump.
        assert_eq!(counter.is_sure(0), way.1 > 0, "{case}");
        counter.since = vec![None, None];
        only_to(&counter.group, 1);
        let mut clients = counter.connect(4);
        assert_eq!(counter.left(1), Some(4), "{case}");
        // From here on others are the other's, and may be half-open for as long as they like.
        only_to(&counter.group, 0);
        let later = counter.connect(3);
        assert_eq!(counter.left(1), Some(4), "{case}");
        for (client, left) in clients.iter_mut().zip((0..4).rev()) {
            client.write_all(b"!").unwrap();
            until(|| (counter.queued(1) == 1).then_some(()));
            assert_eq!(counter.left(1), Some(left + 1), "{case}");
            // By the table alone, but for the last, which is like MPTCP's.
            let addr = counter.addr();
            let look = take(&addr, &inodes(&counter.group), (false, usize::MAX));
            let listener = look.listeners[&inode_of(&counter.group[1])];
            assert_eq!((listener.most, listener.is_exact), (left + 1, left != 1));
            let (mut server, _) = counter.group[1].accept().unwrap();
            server.write_all(b"?").unwrap();
            client.read_exact(&mut [0]).unwrap();
            assert_eq!(counter.left(1), Some(left), "{case}");
        }
        // In the second way what is half-open may be any listener's.
        assert_eq!(counter.left(0), Some(3), "{case}");
        assert!(!counter.is_sure(0), "{case}");
        drop(later);
    }
}

#[test]
fn a_hidden_listener_is_counted_and_one_that_is_shut_down_is_not() {
    for way in WAYS {
        let mut counter = Counter::new(V4, way);
        only_to(&counter.group, 1);
        let mut clients = counter.connect(2);
        clients[0].write_all(b"!").unwrap();
        until(|| (counter.queued(1) == 1).then_some(()));
        drain::hide(counter.group[1].as_fd()).unwrap();
        assert_eq!(counter.left(1), Some(2));
        drain::remove(crate::sys::Kind::Tcp, counter.group[1].as_fd());
        assert_eq!(counter.left(1), None);
    }
}

#[test]
fn a_listener_of_another_network_namespace_is_in_no_table() {
    let listener = listener(V4);
    let addr = listener.local_addr().unwrap();
    let inodes = HashSet::from([inode_of(&listener)]);
    for way in WAYS {
        let look = || take(&addr, &inodes, way);
        let left = || look().left(inode_of(&listener), &mut None);
        assert_eq!(left(), Some(0));
        in_namespace("a listener of another namespace", || {
            assert_eq!(left(), None)
        });
    }
}

/// They have one reference more, which looks like a request.
#[test]
fn an_idle_mptcp_listener_has_nothing_left() {
    use rustix::net::{AddressFamily, SocketType, ipproto::MPTCP, socket};
    for way in WAYS {
        let Ok(socket) = socket(AddressFamily::INET, SocketType::STREAM, Some(MPTCP)) else {
            return skip("MPTCP's listeners (this kernel has none)");
        };
        rustix::net::bind(&socket, &V4).unwrap();
        rustix::net::listen(&socket, 8).unwrap();
        let listener = TcpListener::from(socket);
        let addr = listener.local_addr().unwrap();
        let inode = inode_of(&listener);
        let left = || {
            let look = take(&addr, &HashSet::from([inode]), way);
            look.left(inode, &mut None)
        };
        assert_eq!(left(), Some(0), "{way:?}");
        let clients = [(); 2].map(|()| TcpStream::connect(addr).unwrap());
        until(|| (left() == Some(2)).then_some(()));
        let _ = listener.accept().unwrap();
        assert_eq!(left(), Some(1), "{way:?}");
        let _ = listener.accept().unwrap();
        assert_eq!(left(), Some(0), "{way:?}");
        drop(clients);
    }
}

/// The processor's time that this thread has had.
fn time() -> std::time::Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to room for one timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0);
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How many bytes this thread has read.
fn bytes_read() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}

#[test]
fn ten_thousand_other_listeners_cost_nothing() {
    const TEST: &str = "sys::linux::look::tests::ten_thousand_other_listeners_cost_nothing";
    const OTHERS: u16 = 10_000;
    alone(TEST, || {
        limit_descriptors(|most| most);
        in_namespace("a look beside other listeners", || {
            let group = group(V4, 64);
            let addr = group[0].local_addr().unwrap();
            let wanted = inodes(&group);
            let look = |way| {
                let (bytes, start) = (bytes_read(), time());
                let look = take(&addr, &wanted, way);
                let took = time() - start;
                assert!(
                    group
                        .iter()
                        .all(|one| look.left(inode_of(one), &mut None) == Some(0))
                );
                (bytes_read() - bytes, took)
            };
            WAYS.iter()
                .for_each(|&way| println!("alone, {way:?}: {:?}", look(way)));
            let mut rest = Vec::new();
            for port in 10_000..10_000 + OTHERS {
                match TcpListener::bind(("127.0.0.1", port)) {
                    Ok(listener) => rest.push(listener),
                    Err(error) if rest.len() < 1000 => {
                        return skip(&format!("a look beside other listeners ({error})"));
                    }
                    Err(_) => {}
                }
            }
            WAYS.iter()
                .for_each(|&way| println!("beside {}, {way:?}: {:?}", rest.len(), look(way)));
            // A row has 150 bytes.
            for is_idle in [true, false] {
                let (bytes, _) = look((is_idle, MOST));
                assert!(bytes < 200 * (MOST as u64 + 64), "{bytes} bytes were read");
            }
        });
    });
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn without_the_tables_the_dump_is_asked_and_without_both_there_is_an_error() {
    const TEST: &str = "sys::linux::look::tests::without_the_tables_the_dump_is_asked_and_without_both_there_is_an_error";
    alone(TEST, || {
        let listener = listener(V4);
        let addr = listener.local_addr().unwrap();
        let inodes = HashSet::from([inode_of(&listener)]);
        on_thread(|| {
            refuse(libc::SYS_openat, None);
            let look = Look::take(&addr, &inodes).unwrap();
            assert_eq!(look.left(inode_of(&listener), &mut None), Some(0));
            refuse(libc::SYS_socket, Some(libc::AF_NETLINK));
            Look::take(&addr, &inodes).unwrap_err();
        });
        on_thread(|| {
            refuse(libc::SYS_socket, Some(libc::AF_NETLINK));
            // However many others there are, and whatever can only be told by the dump.
            let look = take(&addr, &inodes, (false, 0));
            assert_eq!(look.left(inode_of(&listener), &mut None), Some(0));
            defer(&listener);
            let _client = TcpStream::connect(addr).unwrap();
            let look = Look::take(&addr, &inodes).unwrap();
            assert_eq!(look.left(inode_of(&listener), &mut None), Some(1));
        });
    });
}

/// From here on this thread's call fails, where its first argument is that.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn refuse(call: libc::c_long, first: Option<libc::c_int>) {
    let first = first.map(|value| (0, value));
    answer(call, first.as_slice(), libc::EACCES);
}
