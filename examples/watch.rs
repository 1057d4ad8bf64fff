//! Who is on a port, live: `cargo run --example watch -- 8881`
//!
//! Run it beside some `http` examples, and ask them. A line per socket: its user and process, the
//! queue of what it has not taken yet, what the kernel refused or dropped, and connections. A full
//! bar is the longest queue since the start, or ten connections, or 64 KiB.
//!
//! `new` is how many connections were seen in the process that it did not have before, and its part
//! of all such. Two sockets of one process have the same number, as no system says by which of them
//! a connection came. It looks ten times a second, and misses what comes and goes in between: a
//! sample, in which long connections count for more.
//!
//! Red is a stranger: of another user, or by another name, than most. Yellow is a process that is
//! stopped. `q` and Ctrl-C end it. Where its output is no terminal it prints lines, each second;
//! with `--once` one time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use std::{env, fs, process, thread};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Stylize};
use ratatui::widgets::{Row, Table};
use reuseport::{Occupant, Protocol, occupants};

const LOOK: Duration = Duration::from_millis(100);

fn main() {
    let (once, port): (Vec<_>, Vec<_>) = env::args().skip(1).partition(|arg| arg == "--once");
    let Ok(port) = port.first().map_or("8881", |port| port).parse() else {
        eprintln!("usage: watch [port] [--once]");
        process::exit(1);
    };
    let watch = Watch {
        port,
        ..Watch::default()
    };
    let done = if !once.is_empty() || !io::stdout().is_terminal() {
        print(watch, !once.is_empty())
    } else {
        ratatui::try_init().and_then(|terminal| {
            let done = draw(watch, terminal);
            ratatui::try_restore().and(done)
        })
    };
    // Whoever reads the lines may go, as `head` does.
    if let Some(error) = done
        .err()
        .filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
    {
        eprintln!("{error}");
        process::exit(1);
    }
}

#[derive(Default)]
struct Watch {
    port: u16,
    lines: Vec<Line>,
    /// The connections of each process at the last look, and how many were new at any.
    seen: Option<BTreeMap<u32, (BTreeSet<u64>, usize)>>,
    longest: BTreeMap<Protocol, u32>,
}

/// What is said of a socket.
struct Line {
    socket: Occupant,
    process: String,
    queue: String,
    open: usize,
    new: usize,
    share: usize,
    stopped: bool,
    stranger: bool,
}

impl Watch {
    fn look(&mut self) -> io::Result<()> {
        let sockets = occupants(self.port)?;
        let last = self.seen.take();
        let mut seen = BTreeMap::new();
        for process in sockets.iter().flat_map(|socket| &socket.processes) {
            let open = BTreeSet::from_iter(process.connections.iter().copied());
            let new = last.as_ref().map_or(0, |last| match last.get(&process.id) {
                Some((before, new)) => new + open.difference(before).count(),
                None => open.len(),
            });
            seen.insert(process.id, (open, new));
        }
        let all: usize = seen.values().map(|(_, new)| new).sum();
        let alike = |socket: &Occupant| {
            let same = |other: &&Occupant| (other.uid, name(other)) == (socket.uid, name(socket));
            sockets.iter().filter(same).count()
        };
        let most = sockets.iter().map(alike).max();
        let stranger: Vec<_> = sockets
            .iter()
            .map(|socket| Some(alike(socket)) < most)
            .collect();

        self.lines.clear();
        for (socket, stranger) in sockets.into_iter().zip(stranger) {
            let least = if socket.protocol == Protocol::Tcp {
                10
            } else {
                64 << 10
            };
            let longest = self.longest.entry(socket.protocol).or_insert(least);
            *longest = socket.waiting.max(*longest);
            let first = socket.processes.first();
            let new = first.map_or(0, |process| seen[&process.id].1);
            let limit = socket
                .limit
                .map_or(String::new(), |limit| format!("/{limit}"));
            self.lines.push(Line {
                process: first.map_or("unknown".to_owned(), |process| {
                    // A process chooses its name, and might choose what a terminal obeys.
                    format!(
                        "{} {}",
                        process.id,
                        process.name.replace(char::is_control, "?")
                    )
                }),
                queue: format!("{}{limit}", socket.waiting),
                open: first.map_or(0, |process| process.connections.len()),
                new,
                share: new * 100 / all.max(1),
                stopped: first.is_some_and(|process| is_stopped(process.id)),
                stranger,
                socket,
            });
        }
        self.seen = Some(seen);
        Ok(())
    }
}

fn name(socket: &Occupant) -> Option<&str> {
    socket
        .processes
        .first()
        .map(|process| process.name.as_str())
}

/// State T, after the name, which may have anything in it (proc_pid_stat(5)).
fn is_stopped(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"));
    stat.is_ok_and(|stat| {
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('T'))
    })
}

fn print(mut watch: Watch, once: bool) -> io::Result<()> {
    loop {
        watch.look()?;
        let mut out = io::stdout().lock();
        if watch.lines.is_empty() {
            writeln!(out, "nobody is on port {}", watch.port)?;
        }
        for Line {
            socket,
            process,
            queue,
            open,
            new,
            share,
            ..
        } in &watch.lines
        {
            let Occupant {
                protocol,
                addr,
                uid,
                ..
            } = socket;
            write!(
                out,
                "{protocol} {addr} user {uid} process {process} queue {queue} "
            )?;
            let lost = socket.drops.unwrap_or(0);
            writeln!(out, "lost {lost} open {open} new {new} ({share} %)")?;
        }
        if once {
            return Ok(());
        }
        for _ in 0..9 {
            thread::sleep(LOOK);
            watch.look()?;
        }
        thread::sleep(LOOK);
    }
}

fn draw(mut watch: Watch, mut terminal: ratatui::DefaultTerminal) -> io::Result<()> {
    loop {
        watch.look()?;
        terminal.draw(|frame| {
            let [title, table, foot] = Layout::vertical([
                Constraint::Length(2),
                Constraint::Fill(1),
                Constraint::Length(1),
            ])
            .areas(frame.area());
            let text = format!("port {}: {} sockets", watch.port, watch.lines.len());
            frame.render_widget(text.bold(), title);
            let names = ["socket", "user", "process", "queue", "lost", "open", "new"];
            let widths = [0, 5, 14, 15, 5, 4, 13].map(|width| match width {
                0 => Constraint::Fill(1),
                width => Constraint::Length(width),
            });
            let rows = watch.lines.iter().map(|line| row(line, &watch.longest));
            frame.render_widget(
                Table::new(rows, widths).header(Row::new(names).bold()),
                table,
            );
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

fn row(line: &Line, longest: &BTreeMap<Protocol, u32>) -> Row<'static> {
    fn bar(part: usize, whole: usize, width: usize) -> String {
        format!("{:<width$}", "█".repeat((part * width).div_ceil(whole)))
    }
    let Occupant {
        protocol,
        addr,
        uid,
        waiting,
        drops,
        ..
    } = line.socket;
    let queue = bar(waiting as usize, longest[&protocol] as usize, 5);
    let row = Row::new([
        format!("{protocol} {addr}"),
        uid.to_string(),
        line.process.clone(),
        format!("{queue} {}", line.queue),
        drops.map_or("?".to_owned(), |drops| drops.to_string()),
        line.open.to_string(),
        format!("{} {} {}%", bar(line.share, 100, 5), line.new, line.share),
    ]);
    match (line.stranger, line.stopped) {
        (true, _) => row.fg(Color::Red),
        (false, true) => row.fg(Color::Yellow),
        (false, false) => row,
    }
}
