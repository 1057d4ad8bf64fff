//! Two network namespaces, and a line between them that takes its time and loses packets.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]
#![allow(unsafe_code, reason = "devices are set up by ioctl(2)")]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::util::{in_namespace, on_thread, skip};

const DEVICE: &str = "link0";

/// Packets that a device holds until the relay reads them: a second of what one processor can make.
const QUEUE: libc::c_int = 100_000;

/// A line between two namespaces, as long as this lives.
pub struct Link {
    namespaces: [OwnedFd; 2],
    counts: Arc<Counts>,
    stop: Arc<OwnedFd>,
    relay: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    carried: AtomicU64,
    lost: AtomicU64,
    refused: AtomicU64,
}

impl Link {
    /// The addresses of the server's end.
    pub const SERVER: [IpAddr; 2] = addrs(1);
    /// The addresses of the client's end.
    pub const CLIENT: [IpAddr; 2] = addrs(2);

    /// A line on which a packet and its answer take `round_trip`, and of whose packets
    /// `loss_percent` are lost in either direction; None where that is not allowed.
    ///
    /// Which ones are lost is the same in each run, as far as the packets are the same.
    pub fn new(what: &str, round_trip: Duration, loss_percent: f64) -> Option<Self> {
        let mut namespaces = Vec::new();
        let mut devices = Vec::new();
        for addrs in [Self::SERVER, Self::CLIENT] {
            let end = in_namespace(what, || end(addrs))?;
            let (namespace, device) = end
                .inspect_err(|error| skip(&format!("{what} (no TUN device: {error})")))
                .ok()?;
            namespaces.push(namespace);
            devices.push(device);
        }
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let counts = Arc::new(Counts::default());
        let relay = Relay {
            ways: [1, 2].map(|seed| Way {
                queue: VecDeque::new(),
                random: seed,
            }),
            devices: devices.try_into().unwrap(),
            delay: round_trip / 2,
            threshold: (loss_percent / 100.0 * 2f64.powi(32)) as u64,
            counts: counts.clone(),
        };
        let stopped = stop.clone();
        let relay = std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || {
                // Of this thread alone (setpriority(2)): the line is not longer when others run.
                rustix::process::setpriority_process(None, -20).ok();
                relay.run(&stopped);
            })
            .unwrap();
        Some(Self {
            namespaces: namespaces.try_into().unwrap(),
            counts,
            stop,
            relay: Some(relay),
        })
    }

    /// Runs `f` on a thread of the server's namespace, which the threads that it starts inherit.
    pub fn on_server<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        Self::on(&self.namespaces[0], f)
    }

    /// Runs `f` on a thread of the client's namespace, which the threads that it starts inherit.
    pub fn on_client<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        Self::on(&self.namespaces[1], f)
    }

    fn on<T: Send>(namespace: &OwnedFd, f: impl FnOnce() -> T + Send) -> T {
        use std::os::fd::AsFd;
        on_thread(|| {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).unwrap();
            f()
        })
    }

    /// How many packets arrived.
    pub fn carried(&self) -> u64 {
        self.counts.carried.load(Ordering::Relaxed)
    }

    /// How many packets were lost as the percentage asks.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// How many packets were lost for another reason; a test that sees any has proven nothing.
    pub fn dropped(&self) -> u64 {
        let overflown: u64 = self
            .namespaces
            .iter()
            .map(|namespace| Self::on(namespace, overflown))
            .sum();
        overflown + self.counts.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, &1u64.to_ne_bytes()).unwrap();
        if let Some(relay) = self.relay.take() {
            let ended = relay.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

const fn addrs(end: u8) -> [IpAddr; 2] {
    [
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, end)),
        IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, end as u16)),
    ]
}

/// Makes the device of the calling thread's namespace, and gives both.
fn end(addrs: [IpAddr; 2]) -> io::Result<(OwnedFd, File)> {
    // A device is made in the namespace of the thread that opens this file (tun(4), kernel:
    // tun_chr_open), and is gone when it is closed.
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut request = request();
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    ioctl(&device, libc::TUNSETIFF as _, &mut request)?;
    rustix::io::ioctl_fionbio(&device, true)?;

    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // The queue is one of the device, which is full before any of TCP's is (kernel: tun_net_xmit).
    // It is where the metric is (netdevice(7)).
    request.ifr_ifru.ifru_metric = QUEUE;
    ioctl(&socket, libc::SIOCSIFTXQLEN as _, &mut request)?;
    for addr in addrs {
        match addr {
            IpAddr::V4(addr) => {
                request.ifr_ifru.ifru_addr = sockaddr(addr);
                ioctl(&socket, libc::SIOCSIFADDR as _, &mut request)?;
                request.ifr_ifru.ifru_netmask = sockaddr(Ipv4Addr::new(255, 255, 255, 0));
                ioctl(&socket, libc::SIOCSIFNETMASK as _, &mut request)?;
                // Before an IPv6 address, which is usable at once on a device that is up and has no
                // neighbours to ask: a TUN device is IFF_NOARP (kernel: addrconf_dad_begin).
                request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
                ioctl(&socket, libc::SIOCSIFFLAGS as _, &mut request)?;
            }
            IpAddr::V6(addr) => {
                ioctl(&socket, libc::SIOCGIFINDEX as _, &mut request)?;
                let socket = UdpSocket::bind("[::]:0")?;
                let request = libc::in6_ifreq {
                    ifr6_addr: libc::in6_addr {
                        s6_addr: addr.octets(),
                    },
                    ifr6_prefixlen: 64,
                    // SAFETY: SIOCGIFINDEX has written it.
                    ifr6_ifindex: unsafe { request.ifr_ifru.ifru_ifindex },
                };
                // SAFETY: of an IPv6 socket SIOCSIFADDR reads one in6_ifreq, which `request` is.
                let result =
                    unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR as _, &request) };
                if result != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
        }
    }
    let namespace = File::open("/proc/thread-self/ns/net")?;
    Ok((namespace.into(), device))
}

fn request() -> libc::ifreq {
    // SAFETY: an ifreq is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn sockaddr(addr: Ipv4Addr) -> libc::sockaddr {
    let mut sockaddr = libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: [0; 14],
    };
    // Of a sockaddr_in, which begins with the port.
    for (to, from) in sockaddr.sa_data[2..].iter_mut().zip(addr.octets()) {
        *to = from as libc::c_char;
    }
    sockaddr
}

/// One of the requests that take an ifreq.
fn ioctl(fd: &impl AsRawFd, number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the caller's request reads and writes one ifreq, which `request` is.
    match unsafe { libc::ioctl(fd.as_raw_fd(), number, request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many packets the device of the calling thread's namespace has dropped since it was made,
/// because its queue was full.
fn overflown() -> u64 {
    let devices = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let name = format!("{DEVICE}:");
    let line = devices
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(&name))
        .unwrap();
    // Eight numbers of what was received, and then bytes, packets, errors and drops of what was
    // sent (kernel: dev_seq_printf_stats).
    line.split_whitespace().nth(11).unwrap().parse().unwrap()
}

struct Relay {
    /// What comes from the device of the same index.
    ways: [Way; 2],
    devices: [File; 2],
    delay: Duration,
    /// Of 2^32, how many packets are lost.
    threshold: u64,
    counts: Arc<Counts>,
}

struct Way {
    /// All packets take equally long, and so are due in the order in which they came.
    queue: VecDeque<(Instant, Vec<u8>)>,
    random: u64,
}

impl Way {
    /// Each of 2^32 numbers is as likely (splitmix64).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) >> 32
    }
}

impl Relay {
    fn run(mut self, stop: &OwnedFd) {
        loop {
            let mut next = None;
            let mut more = false;
            for from in 0..2 {
                more |= self.take(from);
                self.give(from);
                let due = self.ways[from].queue.front().map(|&(due, _)| due);
                next = [next, due].into_iter().flatten().min();
            }
            let timeout = if more {
                Some(Duration::ZERO)
            } else {
                next.map(|due| due.saturating_duration_since(Instant::now()))
            };
            let timeout = timeout.map(|timeout| Timespec::try_from(timeout).unwrap());
            let mut fds = [
                PollFd::new(&self.devices[0], PollFlags::IN),
                PollFd::new(&self.devices[1], PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            // ppoll(2), whose timeout is one of nanoseconds.
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("ppoll: {error}"),
            }
            if !fds[2].revents().is_empty() {
                return;
            }
        }
    }

    /// Takes what a device sends; is there more of it, perhaps?
    fn take(&mut self, from: usize) -> bool {
        let way = &mut self.ways[from];
        let mut packet = [0; 2048];
        // Not all, so that the other direction has its turn.
        for _ in 0..64 {
            match (&self.devices[from]).read(&mut packet) {
                Ok(len) => {
                    if way.random() < self.threshold {
                        self.counts.lost.fetch_add(1, Ordering::Relaxed);
                    } else {
                        let due = Instant::now() + self.delay;
                        way.queue.push_back((due, packet[..len].to_vec()));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => panic!("a packet from a device: {error}"),
            }
        }
        true
    }

    /// Hands what is due to the other device.
    fn give(&mut self, from: usize) {
        let way = &mut self.ways[from];
        let now = Instant::now();
        while way.queue.front().is_some_and(|&(due, _)| due <= now) {
            let Some((_, packet)) = way.queue.pop_front() else {
                return;
            };
            // The kernel does all of its work on the packet in this call (kernel: tun_rx_batched).
            let count = match (&self.devices[1 - from]).write(&packet) {
                Ok(_) => &self.counts.carried,
                Err(_) => &self.counts.refused,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}
