//! What a server does that [`Process`](crate::process::Process) has started: its side of the words.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]
#![allow(unsafe_code, reason = "limits, users and forks are set by libc")]

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use reuseport::{
    ConnectionIds, Error, Generation, Group, Member, Options, ReusePort, Roster, Spread, Std,
    Steering,
};

use crate::engine::{self, Before};
use crate::process::say;
use crate::worker::{Serve, Worker};

enum Either {
    Tcp(Group<TcpListener>),
    Udp(Group<UdpSocket>),
}

#[derive(Default)]
pub struct Server {
    group: Option<Either>,
    several: Vec<Either>,
    rosters: Vec<Roster<TcpListener>>,
    generation: Option<Arc<Generation>>,
    /// The next process has taken over.
    relieved: Arc<AtomicBool>,
    workers: Vec<Worker>,
    held: Vec<Box<dyn std::any::Any>>,
}

impl Server {
    /// Does what the line says, and says so.
    pub fn obey(&mut self, words: &[&str]) {
        match words {
            ["open", kind, addr, n, how @ ..] => {
                let (begin, options) = (Instant::now(), options(how));
                let n = n.parse().unwrap();
                let opened = match *kind {
                    "tcp" => options
                        .generation(*addr, n)
                        .map(|(group, generation)| (Either::Tcp(group), generation)),
                    _ => options
                        .packet_generation(*addr, n)
                        .map(|(group, generation)| (Either::Udp(group), generation)),
                };
                let millis = begin.elapsed().as_millis();
                let (group, generation) = match opened {
                    Ok(opened) => opened,
                    Err(error) => return say(&format!("open {}", failed(&error, begin))),
                };
                if let Either::Tcp(group) = &group {
                    self.rosters.push(group.roster());
                }
                let before = before(&generation);
                let generation = Arc::new(generation);
                self.group = Some(group);
                self.generation = Some(generation);
                say(&format!("open {before} {millis}"));
            }
            // A server that moves from one address to another.
            ["open-both", old, new, n] => {
                let (begin, options) = (Instant::now(), Options::new());
                let n = n.parse().unwrap();
                match Generation::open((options.want(*old, n), options.want(*new, n))) {
                    Ok(((old, new), generation)) => {
                        let before = before(&generation);
                        self.several = vec![Either::Tcp(old), Either::Tcp(new)];
                        self.generation = Some(Arc::new(generation));
                        say(&format!("open {before} {}", begin.elapsed().as_millis()));
                    }
                    Err(error) => say(&format!("open {}", failed(&error, begin))),
                }
            }
            ["open-several", order, spread @ ..] => {
                let (begin, options) = (Instant::now(), options(spread));
                match several(&options, *order == "forward") {
                    Ok((groups, generation)) => {
                        let before = before(&generation);
                        self.several = groups;
                        self.generation = Some(Arc::new(generation));
                        say(&format!("open {before} {}", begin.elapsed().as_millis()));
                    }
                    Err(error) => say(&format!("open {}", failed(&error, begin))),
                }
            }
            // As a server does that knows of no generations, which serves until it is told to finish.
            ["old", "packet", addr, n, tag] => {
                let group = Options::new().packet_group(*addr, n.parse().unwrap());
                let members = group.unwrap().into_iter().map(Member::into_std);
                let tag = tag.parse().unwrap();
                self.workers
                    .extend(members.map(|socket| Worker::start(socket, tag)));
                say("old");
            }
            ["old", how, addr, n, tag] => {
                let listeners: Vec<TcpListener> = match *how {
                    "plain" => vec![TcpListener::bind(*addr).unwrap()],
                    "listen" => vec![Std::listen(*addr).unwrap()],
                    _ => {
                        let n = n.parse().unwrap();
                        let options = match *how {
                            "weights" => {
                                let weights = (1..=n as u32).collect();
                                Options::new().steering(Steering::Weights(weights))
                            }
                            _ => Options::new(),
                        };
                        let group = options.group(*addr, n).unwrap();
                        group.into_iter().map(Member::into_std).collect()
                    }
                };
                let tag = tag.parse().unwrap();
                let workers = listeners.into_iter();
                self.workers
                    .extend(workers.map(|listener| Worker::start(listener, tag)));
                say("old");
            }
            ["serve", tag] => {
                let tag = tag.parse().unwrap();
                for group in self.group.take().into_iter().chain(self.several.drain(..)) {
                    let over = self.relieved.clone();
                    match group {
                        Either::Tcp(group) => self.workers.extend(serve(group, tag, &over)),
                        Either::Udp(group) => self.workers.extend(serve(group, tag, &over)),
                    }
                }
                say("serve");
            }
            ["serve-blocking", tag] => {
                let tag = tag.parse().unwrap();
                let Some(Either::Tcp(group)) = self.group.take() else {
                    panic!("only listeners are woken");
                };
                let members = group.into_iter();
                let workers = members.map(|member| Worker::start_blocking(member.into_std(), tag));
                self.workers.extend(workers);
                say("serve-blocking");
            }
            ["take", millis] => {
                let timeout = Duration::from_millis(millis.parse().unwrap());
                let generation = self.generation.clone().unwrap();
                let over = self.relieved.clone();
                say("taking");
                thread::spawn(move || {
                    let begin = Instant::now();
                    match engine::take_over(&generation, timeout) {
                        Ok(lost) => say(&format!("taken {lost}")),
                        Err(error) => return say(&format!("taken {}", failed(&error, begin))),
                    }
                    say(&format!("took {}", begin.elapsed().as_millis()));
                    generation.relieved_blocking();
                    over.store(true, Ordering::SeqCst);
                    say("relieved");
                });
            }
            ["share", part] => {
                let begin = Instant::now();
                let generation = self.generation.as_ref().unwrap();
                match generation.take_share_blocking(part.parse().unwrap()) {
                    Ok(part) => say(&format!("share {part}")),
                    Err(error) => say(&format!("share {}", failed(&error, begin))),
                }
            }
            // On this thread, where no other can be started.
            ["take-here", millis] => {
                let timeout = Duration::from_millis(millis.parse().unwrap());
                let begin = Instant::now();
                let generation = self.generation.as_ref().unwrap();
                match engine::take_over(generation, timeout) {
                    Ok(lost) => say(&format!("taken {lost}")),
                    Err(error) => say(&format!("taken {}", failed(&error, begin))),
                }
            }
            ["finish"] => {
                let served: usize = self.workers.drain(..).map(Worker::stop).sum();
                say(&format!("finish {served}"));
            }
            ["stop"] => {
                let generation = self.generation.as_ref().unwrap();
                generation.stop();
                generation.relieved_blocking();
                let left = generation.outcome().unwrap().unaccepted;
                let served: usize = self.workers.drain(..).map(Worker::stop).sum();
                say(&format!("stop {left} {served}"));
            }
            ["drop", "generation"] => {
                self.generation = None;
                say("drop");
            }
            ["drop", "group"] => {
                self.group = None;
                say("drop");
            }
            ["drop", "worker"] => {
                self.workers.remove(0).stop();
                say("drop");
            }
            ["served"] => {
                let served = self.workers.iter();
                let served: Vec<_> = served
                    .map(|worker| worker.served.load(Ordering::Relaxed).to_string())
                    .collect();
                say(&format!("served {}", served.join(" ")));
            }
            ["leave", number] => {
                let begin = Instant::now();
                match self.rosters.last().unwrap().leave(number.parse().unwrap()) {
                    Ok(leaving) => {
                        self.held.push(Box::new(leaving));
                        say("leave");
                    }
                    Err(error) => say(&format!("leave {}", failed(&error, begin))),
                }
            }
            ["places"] => {
                say(&format!(
                    "places {:?}",
                    self.rosters.last().unwrap().places()
                ));
            }
            ["give-up", kind, addr, n, how, times] => {
                let times = times.parse().unwrap();
                for _ in 0..times {
                    match *kind {
                        "tcp" => give_up::<TcpListener>(addr, n.parse().unwrap(), how),
                        _ => give_up::<UdpSocket>(addr, n.parse().unwrap(), how),
                    }
                }
                say("give-up");
            }
            ["exit"] => std::process::exit(0),
            other => self.obey_system(other),
        }
    }

    /// What changes the process itself.
    fn obey_system(&mut self, words: &[&str]) {
        match words {
            ["setuid", uid] => {
                let uid = uid.parse().unwrap();
                // SAFETY: they take numbers, and a null pointer for no groups; libc's act on all
                // threads.
                let set = unsafe {
                    [
                        libc::setgroups(0, std::ptr::null()),
                        libc::setresgid(uid, uid, uid),
                        libc::setresuid(uid, uid, uid),
                    ]
                };
                assert_eq!(set, [0; 3], "{}", io::Error::last_os_error());
                say("setuid");
            }
            // Of which it has so many left.
            ["descriptors", more] => {
                let taken = take_descriptors(more.parse().unwrap());
                self.held.push(Box::new(taken));
                say("descriptors");
            }
            ["enough-descriptors"] => {
                self.held.clear();
                say("enough-descriptors");
            }
            ["threads", more] => {
                limit(rustix::process::Resource::Nproc, more.parse().unwrap());
                say("threads");
            }
            // For what it forks from here on.
            ["unshare-pids"] => {
                // SAFETY: it takes a number; what is running stays where it is.
                let unshared = unsafe { libc::unshare(libc::CLONE_NEWPID) };
                assert_eq!(unshared, 0, "{}", io::Error::last_os_error());
                say("unshare-pids");
            }
            // The members are served by a child, and closed here.
            ["prefork", tag] => {
                let group = self.group.take().unwrap();
                // SAFETY: only this thread is in the child, and it holds no lock.
                match unsafe { libc::fork() } {
                    0 => {
                        // However the test ends.
                        // SAFETY: it takes a number, and no handler is set.
                        unsafe { libc::alarm(30) };
                        self.group = Some(group);
                        self.obey(&["serve", tag]);
                        loop {
                            thread::park();
                        }
                    }
                    -1 => panic!("{}", io::Error::last_os_error()),
                    pid => {
                        drop(group);
                        say(&format!("prefork {pid}"));
                    }
                }
            }
            // As a daemon does: the parent ends, and the child goes on.
            ["fork"] => {
                // SAFETY: only this thread is in the child, and it holds no lock.
                match unsafe { libc::fork() } {
                    0 => say(&format!("fork {}", std::process::id())),
                    -1 => panic!("{}", io::Error::last_os_error()),
                    // SAFETY: it takes an int, and ends the process.
                    _ => unsafe { libc::_exit(0) },
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Takes all descriptors that this process may have but for so many, until what this returns is
/// dropped.
pub fn take_descriptors(left: usize) -> Vec<std::fs::File> {
    limit(rustix::process::Resource::Nofile, 400);
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    taken.truncate(taken.len() - left);
    taken
}

/// Sets the soft limit, as far as the hard one goes.
pub fn limit(resource: rustix::process::Resource, soft: u64) {
    use rustix::process::{getrlimit, setrlimit};
    let mut limit = getrlimit(resource);
    limit.current = Some(limit.maximum.map_or(soft, |hard| soft.min(hard)));
    setrlimit(resource, limit).unwrap();
}

fn serve<S: Serve>(group: Group<S>, tag: u8, over: &Arc<AtomicBool>) -> Vec<Worker> {
    let members = group.into_iter();
    members
        .map(|member| Worker::start_until(member.into_std(), tag, over.clone()))
        .collect()
}

/// The addresses of a server that has several.
pub const SEVERAL: [&str; 3] = ["127.0.0.1:4000", "127.0.0.1:4001", "127.0.0.1:4001"];

/// Two listeners and a UDP socket, which two processes may name in different orders.
fn several(options: &Options, forward: bool) -> Result<(Vec<Either>, Generation), Error> {
    let [http, https, quic] = SEVERAL;
    let (http, https) = (options.want(http, 2), options.want(https, 1));
    let quic = options.want_packet(quic, 2);
    if forward {
        let ((http, https, quic), generation) = Generation::open((http, https, quic))?;
        let groups = [Either::Tcp(http), Either::Tcp(https), Either::Udp(quic)];
        Ok((groups.into(), generation))
    } else {
        let ((quic, https, http), generation) = Generation::open((quic, https, http))?;
        let groups = [Either::Udp(quic), Either::Tcp(https), Either::Tcp(http)];
        Ok((groups.into(), generation))
    }
}

fn before(generation: &Generation) -> String {
    match engine::before(generation) {
        Before::Nothing => "nothing".to_owned(),
        Before::Unknown => "unknown".to_owned(),
        Before::Process(pid) => pid.to_string(),
    }
}

fn failed(error: &Error, begin: Instant) -> String {
    format!(
        "error {:?} {} {}",
        error.kind(),
        begin.elapsed().as_millis(),
        error.to_string().replace('\n', " ")
    )
}

fn options(how: &[&str]) -> Options {
    how.iter()
        .fold(Options::new(), |options, word| match word.split_once('=') {
            Some(("folder", folder)) => options.rendezvous(folder),
            Some(("weights", weights)) => {
                let weights = weights.split(',').map(|weight| weight.parse().unwrap());
                options.steering(Steering::Weights(weights.collect()))
            }
            _ if *word == "ids" => options.steering(Steering::ConnectionIds(ConnectionIds::at(0))),
            _ if *word == "queue" => options.spread(Spread::Queue),
            _ if *word == "defers" => options.before_bind(|socket| defer_accept(&socket)),
            _ => panic!("{word}"),
        })
}

/// Opens the next generation, and gives it up before it has taken over.
fn give_up<S: Serve>(addr: &str, n: usize, how: &str) {
    let open = || {
        let addr: SocketAddr = addr.parse().unwrap();
        S::open(&Options::new(), &addr.to_string(), n)
    };
    let result: Result<(), Box<dyn std::error::Error>> = match how {
        "generation-first" => {
            let (group, generation) = open().unwrap();
            drop(generation);
            drop(group);
            Ok(())
        }
        "group-first" => {
            let (group, generation) = open().unwrap();
            drop(group);
            drop(generation);
            Ok(())
        }
        // Locals are dropped in the reverse order, the generation first.
        "error" => (|| {
            let (_group, _generation) = open()?;
            Err("the configuration is wrong")?
        })(),
        "panic" => {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let (_group, _generation) = open().unwrap();
                panic!("on purpose");
            }));
            panicked.map_err(|_| "a panic".into())
        }
        // Workers have the members, and end a little later.
        "workers" => {
            let (group, generation) = open().unwrap();
            let workers: Vec<_> = group
                .into_iter()
                .map(|member| Worker::start(member.into_std(), 0))
                .collect();
            drop(generation);
            workers.into_iter().for_each(Worker::end);
            Ok(())
        }
        // The program goes on for a while, with members that it does not serve.
        "lives-on" => {
            let (group, generation) = open().unwrap();
            drop(generation);
            thread::sleep(Duration::from_millis(200));
            drop(group);
            Ok(())
        }
        how => panic!("{how}?"),
    };
    assert_eq!(result.is_err(), matches!(how, "error" | "panic"));
}

/// A client that says nothing stays a half-open request (tcp(7), TCP_DEFER_ACCEPT).
fn defer_accept(socket: &impl AsRawFd) -> io::Result<()> {
    let seconds: libc::c_int = 60;
    // SAFETY: the pointer and the length are those of `seconds`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
