//! Who is on a port, live: `cargo run --example watch -- 8881`
//!
//! Run it beside some `http` examples and ask them with curl. A line per socket: its user and
//! process, the queue of what it has not taken yet, and what the kernel refused or dropped. A full
//! bar is the longest queue since the start, of at least ten connections or 64 KiB of datagrams.
//!
//! `new` is how many connections were seen in a process that were not there before, and its part of
//! all such; sockets of one process show the same number, because no system says which of them a
//! connection came by. It looks ten times a second, and misses what is opened and closed in
//! between: so it is a sample, in which long connections count for more.
//!
//! Red is a stranger: of another user or by another name than most. Yellow is a process that is
//! stopped. `q` and Ctrl-C end it. Where its output is no terminal it prints lines, each second;
//! with `--once` one time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Stylize};
use ratatui::widgets::{Row, Table};
use reuseport::{Occupant, Protocol, occupants};

const LOOK: Duration = Duration::from_millis(100);

fn main() {
    let args: Vec<_> = env::args().skip(1).collect();
    let once = args.iter().any(|arg| arg == "--once");
    let port = args.iter().find(|arg| *arg != "--once");
    let Ok(port) = port.map_or("8881", |port| port).parse() else {
        eprintln!("usage: watch [port] [--once]");
        process::exit(1);
    };
    let watch = Watch::new(port);
    let done = match once || !io::stdout().is_terminal() {
        true => print(watch, once),
        false => ratatui::try_init().and_then(|terminal| {
            let done = draw(watch, terminal);
            ratatui::try_restore().and(done)
        }),
    };
    // Whoever reads the lines may go, as `head` does.
    match done {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("{error}");
            process::exit(1);
        }
        _ => {}
    }
}

/// What was seen of a process so far.
#[derive(Default)]
struct Worker {
    open: BTreeSet<u64>,
    new: usize,
    stopped: bool,
}

struct Watch {
    port: u16,
    sockets: Vec<Occupant>,
    workers: BTreeMap<u32, Worker>,
    looked: bool,
    longest: BTreeMap<Protocol, u32>,
}

impl Watch {
    fn new(port: u16) -> Self {
        Self {
            port,
            sockets: Vec::new(),
            workers: BTreeMap::new(),
            looked: false,
            longest: [(Protocol::Tcp, 10), (Protocol::Udp, 64 << 10)].into(),
        }
    }

    fn look(&mut self) -> io::Result<()> {
        self.sockets = occupants(self.port)?;
        for socket in &self.sockets {
            let longest = self.longest.entry(socket.protocol).or_default();
            *longest = socket.waiting.max(*longest);
        }
        let ids = self.sockets.iter().flat_map(|socket| &socket.processes);
        let ids: BTreeSet<_> = ids.map(|process| process.id).collect();
        let connections = connections(self.port);
        self.workers.retain(|id, _| ids.contains(id));
        for id in ids {
            let worker = self.workers.entry(id).or_default();
            let open = &sockets_of(id) & &connections;
            if self.looked {
                worker.new += open.difference(&worker.open).count();
            }
            worker.open = open;
            worker.stopped = is_stopped(id);
        }
        self.looked = true;
        Ok(())
    }

    fn worker(&self, socket: &Occupant) -> Option<&Worker> {
        self.workers.get(&socket.processes.first()?.id)
    }

    /// The new connections of a socket's process, and how many that is in a hundred.
    fn new_of(&self, socket: &Occupant) -> (usize, usize) {
        let new = self.worker(socket).map_or(0, |worker| worker.new);
        let all: usize = self.workers.values().map(|worker| worker.new).sum();
        (new, new * 100 / all.max(1))
    }

    /// Is it unlike the most of them?
    fn is_stranger(&self, socket: &Occupant) -> bool {
        let alike = |other: &Occupant| {
            let like = |socket: &&Occupant| socket.uid == other.uid && name(socket) == name(other);
            self.sockets.iter().filter(like).count()
        };
        alike(socket) < self.sockets.iter().map(alike).max().unwrap_or(0)
    }
}

fn name(socket: &Occupant) -> &str {
    socket.processes.first().map_or("", |process| &process.name)
}

/// `4711 http`, and how many other processes have the socket.
fn process(socket: &Occupant) -> String {
    let Some(first) = socket.processes.first() else {
        return "unknown".to_owned();
    };
    // A process chooses its name, and might choose what a terminal obeys.
    let name = first.name.replace(char::is_control, "?");
    match socket.processes.len() - 1 {
        0 => format!("{} {name}", first.id),
        others => format!("{} {name} +{others}", first.id),
    }
}

/// The sockets, by inode, that are connections to the port (proc_pid_net(5)).
fn connections(port: u16) -> BTreeSet<u64> {
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/net/{table}")));
    let port = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let ours = fields.get(1)?.ends_with(&port) && fields[3] != "0A";
        fields.get(9).filter(|_| ours)?.parse().ok()
    };
    let tables = tables.into_iter().flatten();
    tables
        .flat_map(|text| text.lines().filter_map(inode).collect::<Vec<_>>())
        .collect()
}

fn sockets_of(process: u32) -> BTreeSet<u64> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd"))
        .into_iter()
        .flatten();
    let inode = |link: &str| {
        link.strip_prefix("socket:[")?
            .strip_suffix(']')?
            .parse()
            .ok()
    };
    let links = descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter_map(|link| inode(link.to_str()?)).collect()
}

fn is_stopped(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| rest.starts_with(['T', 't']))
}

/// `3/4096`, or `3` where the kernel does not say how much may wait.
fn waiting(socket: &Occupant) -> String {
    let limit = socket.limit.map(|limit| format!("/{limit}"));
    format!("{}{}", socket.waiting, limit.unwrap_or_default())
}

fn print(mut watch: Watch, once: bool) -> io::Result<()> {
    loop {
        let second = Instant::now() + Duration::from_secs(1);
        watch.look()?;
        while !once && Instant::now() < second {
            thread::sleep(LOOK);
            watch.look()?;
        }
        let mut out = io::stdout().lock();
        if watch.sockets.is_empty() {
            writeln!(out, "nobody is on port {}", watch.port)?;
        }
        for socket in &watch.sockets {
            let Occupant {
                protocol,
                addr,
                uid,
                ..
            } = socket;
            let (process, waiting) = (process(socket), waiting(socket));
            write!(
                out,
                "{protocol} {addr} user {uid} process {process} queue {waiting}"
            )?;
            let worker = watch.worker(socket);
            let open = worker.map_or(0, |worker| worker.open.len());
            let (new, share) = watch.new_of(socket);
            let lost = socket.drops.unwrap_or(0);
            write!(out, " lost {lost} open {open} new {new} ({share} %)")?;
            let stopped = worker.is_some_and(|worker| worker.stopped);
            let stranger = watch.is_stranger(socket);
            let marks = [(stopped, " stopped"), (stranger, " stranger")];
            let marks = marks.map(|(is, word)| if is { word } else { "" });
            writeln!(out, "{}", marks.concat())?;
        }
        if once {
            return Ok(());
        }
    }
}

fn draw(mut watch: Watch, mut terminal: ratatui::DefaultTerminal) -> io::Result<()> {
    loop {
        watch.look()?;
        terminal.draw(|frame| {
            let rows = watch.sockets.iter().map(|socket| row(&watch, socket));
            let widths = [10, 5, 17, 22, 6, 14].map(Constraint::Length);
            let widths = [[Constraint::Fill(1)].as_slice(), &widths[1..]].concat();
            let header = Row::new(["socket", "user", "process", "queue", "lost", "new"]).bold();
            let areas = Layout::vertical([1, 1, 0, 1].map(|height| match height {
                0 => Constraint::Fill(1),
                height => Constraint::Length(height),
            }));
            let [title, _, table, foot] = areas.areas(frame.area());
            let count = watch.sockets.len();
            frame.render_widget(
                format!("port {}: {count} sockets", watch.port).bold(),
                title,
            );
            frame.render_widget(Table::new(rows, widths).header(header), table);
            frame.render_widget("red: a stranger   yellow: stopped   q: end".dim(), foot);
        })?;
        if event::poll(LOOK)? {
            if let Event::Key(key) = event::read()? {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                if key.code == KeyCode::Char('q') || control && key.code == KeyCode::Char('c') {
                    return Ok(());
                }
            }
        }
    }
}

fn row<'a>(watch: &Watch, socket: &Occupant) -> Row<'a> {
    /// How many of its parts are full.
    fn bar(part: usize, whole: usize, width: usize) -> String {
        let full = (part * width).div_ceil(whole.max(1));
        format!("{:<width$}", "█".repeat(full))
    }
    let longest = watch.longest[&socket.protocol] as usize;
    let queue = format!(
        "{} {}",
        bar(socket.waiting as usize, longest, 8),
        waiting(socket)
    );
    let (new, share) = watch.new_of(socket);
    let stopped = watch.worker(socket).is_some_and(|worker| worker.stopped);
    let row = Row::new([
        format!("{} {}", socket.protocol, socket.addr.ip()),
        socket.uid.to_string(),
        process(socket),
        queue,
        socket
            .drops
            .map_or("?".to_owned(), |drops| drops.to_string()),
        format!("{} {new} {share}%", bar(share, 100, 5)),
    ]);
    match (watch.is_stranger(socket), stopped) {
        (true, _) => row.fg(Color::Red),
        (false, true) => row.fg(Color::Yellow),
        (false, false) => row,
    }
}
