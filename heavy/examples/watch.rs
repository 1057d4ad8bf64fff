//! Who is on a port, live: `cargo run --example watch -- 8881`
//!
//! Run it beside some `http` examples, and ask them. A line per socket: its user and process, the
//! queue of what it has not taken yet, what the kernel refused or dropped, and the connections that
//! the process has. A full bar is the longest queue so far, of ten connections at least.
//!
//! `seen` is how many connections the process had at any look, and its part of all of them; sockets
//! of one process show the same, as no system says by which a connection came. It looks ten times a
//! second and misses what is shorter: a sample, in which long connections count for more.
//!
//! `!` is a stranger: of another user, or by another name, than most. `-` is a process that is
//! stopped. `*` is a socket that is stuck: something waits in its queue, and for half a second nothing
//! was taken from it; the mark goes when something is. `q` and Ctrl-C end it. Where its output is no terminal it prints lines, each second;
//! with `--once` it prints them one time and ends.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use std::{env, fs, process, thread};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Stylize};
use ratatui::widgets::{Row, Table};
use ratatui::{DefaultTerminal, Frame};
use reuseport::{Occupant, Process, Protocol, occupants};

const LOOK: Duration = Duration::from_millis(100);
/// A socket is stuck when so many looks in a row saw something wait, and nothing taken.
const STUCK: u32 = 5;
const COLUMNS: [&str; 7] = ["socket", "user", "process", "queue", "lost", "open", "seen"];

fn main() {
    let (once, port): (Vec<_>, Vec<_>) = env::args().skip(1).partition(|arg| arg == "--once");
    let Ok(port) = port.first().map_or("8881", |port| port).parse() else {
        eprintln!("usage: watch [port] [--once]");
        process::exit(1);
    };
    let once = !once.is_empty();
    let done = if once || !io::stdout().is_terminal() {
        print(port, once)
    } else {
        ratatui::try_init().and_then(|terminal| {
            let done = draw(port, terminal);
            ratatui::try_restore().and(done)
        })
    };
    if let Err(error) = done {
        eprintln!("{error}");
        process::exit(1);
    }
}

#[derive(Default)]
struct Watch {
    sockets: Vec<Occupant>,
    /// The connections of each process at the last look, and how many it had at any.
    seen: BTreeMap<u32, (Vec<u64>, usize)>,
    /// How many sockets each user has in processes of each name.
    alike: BTreeMap<(u32, Option<String>), usize>,
    longest: BTreeMap<Protocol, u32>,
    /// By inode: what waited at the last look, and at how many nothing had been taken.
    untaken: BTreeMap<u64, (u32, u32)>,
}

impl Watch {
    fn look(&mut self, port: u16) -> io::Result<()> {
        self.sockets = occupants(port)?;
        self.alike.clear();
        let before = std::mem::take(&mut self.untaken);
        for socket in &self.sockets {
            let longest = self.longest.entry(socket.protocol).or_insert(10);
            *longest = socket.waiting.unwrap_or(0).max(*longest);
            *self.alike.entry(who(socket)).or_default() += 1;
            let waiting = socket.waiting.unwrap_or(0);
            let looks = match before.get(&socket.inode) {
                Some((last, looks)) if waiting >= *last && waiting > 0 => looks + 1,
                _ => 0,
            };
            self.untaken.insert(socket.inode, (waiting, looks));
            for process in &socket.processes {
                let (last, seen) = self.seen.entry(process.id).or_default();
                let is_new = |inode: &&u64| last.binary_search(inode).is_err();
                *seen += process.connections.iter().filter(is_new).count();
                last.clone_from(&process.connections);
            }
        }
        Ok(())
    }

    fn cells(&self, socket: &Occupant) -> [String; COLUMNS.len()] {
        let told = |n: Option<u32>| n.map_or("?".to_owned(), |n| n.to_string());
        let open = |process: &Process| process.connections.len();
        let (seen, share) = self.share(socket);
        [
            format!("{} {}", socket.protocol, socket.addr),
            socket.uid.to_string(),
            names(socket),
            format!("{}/{}", told(socket.waiting), told(socket.limit)),
            told(socket.drops),
            socket.processes.iter().map(open).sum::<usize>().to_string(),
            format!("{seen} {share}%"),
        ]
    }

    /// How many connections a socket's processes had, and how many that is in a hundred.
    fn share(&self, socket: &Occupant) -> (usize, usize) {
        let seen = |process: &Process| self.seen[&process.id].1;
        let mine: usize = socket.processes.iter().map(seen).sum();
        let all: usize = self.seen.values().map(|(_, seen)| seen).sum();
        (mine, mine * 100 / all.max(1))
    }

    fn is_stuck(&self, socket: &Occupant) -> bool {
        let untaken = self.untaken.get(&socket.inode);
        untaken.is_some_and(|(_, looks)| *looks >= STUCK)
    }

    fn verdict(&self, socket: &Occupant) -> &'static str {
        match self.alike.values().max() {
            most if most > self.alike.get(&who(socket)) => "stranger",
            _ if socket.processes.iter().any(is_stopped) => "stopped",
            _ if self.is_stuck(socket) => "stuck",
            _ => "",
        }
    }
}

fn who(socket: &Occupant) -> (u32, Option<String>) {
    let first = socket.processes.first();
    (socket.uid, first.map(|process| process.name.clone()))
}

/// `4711 http`, and the same of other processes that have the socket.
fn names(socket: &Occupant) -> String {
    let one = |process: &Process| format!("{} {} ", process.id, process.name);
    // A process chooses its name, and might choose what a terminal obeys.
    let all: String = socket.processes.iter().map(one).collect();
    all.trim_end().replace(char::is_control, "?")
}

/// State T, behind the name, which may have anything in it (proc_pid_stat(5)).
fn is_stopped(process: &Process) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id));
    stat.is_ok_and(|stat| stat.rsplit(") ").next().unwrap_or("").starts_with('T'))
}

fn print(port: u16, once: bool) -> io::Result<()> {
    let mut watch = Watch::default();
    watch.look(port)?;
    loop {
        let mut out = io::stdout().lock();
        if watch.sockets.is_empty() {
            writeln!(out, "no socket is on port {port}")?;
            writeln!(out, "try: cargo run --example http -- localhost:{port}")?;
        }
        for socket in &watch.sockets {
            let cells = COLUMNS.iter().zip(watch.cells(socket));
            let line: String = cells
                .map(|(name, cell)| format!("{name} {cell}  "))
                .collect();
            writeln!(out, "{}", (line + watch.verdict(socket)).trim_end())?;
        }
        if once {
            return Ok(());
        }
        for _ in 0..10 {
            thread::sleep(LOOK);
            watch.look(port)?;
        }
    }
}

fn draw(port: u16, mut terminal: DefaultTerminal) -> io::Result<()> {
    let mut watch = Watch::default();
    loop {
        watch.look(port)?;
        terminal.draw(|frame| show(port, &watch, frame))?;
        if event::poll(LOOK)? && is_end(event::read()?) {
            return Ok(());
        }
    }
}

/// `q`, or Ctrl-C, which is a key like others while the terminal is raw.
fn is_end(event: Event) -> bool {
    matches!(event, Event::Key(key) if key.code == KeyCode::Char('q')
        || key == KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL))
}

fn show(port: u16, watch: &Watch, frame: &mut Frame) {
    fn bar(cell: &mut String, part: u32, whole: u32) {
        let full = part.saturating_mul(5).div_ceil(whole);
        *cell = format!("{:<5} {cell}", "█".repeat(full as usize));
    }
    let rows = watch.sockets.iter().map(|socket| {
        let (mark, color) = match watch.verdict(socket) {
            "stranger" => ("!", Color::Red),
            "stopped" => ("-", Color::Yellow),
            "stuck" => ("*", Color::Magenta),
            _ => (" ", Color::Reset),
        };
        let mut cells = watch.cells(socket);
        cells[0] = format!("{mark} {} {}", socket.protocol, socket.addr.ip());
        let waiting = socket.waiting.unwrap_or(0);
        bar(&mut cells[3], waiting, watch.longest[&socket.protocol]);
        bar(&mut cells[6], watch.share(socket).1 as u32, 100);
        Row::new(cells).fg(color)
    });
    let [fill, one, two] = [Constraint::Fill(1), Constraint::Max(1), Constraint::Max(2)];
    let widths = [5, 14, 15, 5, 4, 13].map(Constraint::Length);
    let table = Table::new(rows, [fill].into_iter().chain(widths));
    let [title, body, foot] = Layout::vertical([two, fill, one]).areas(frame.area());
    frame.render_widget(format!("port {port}").bold(), title);
    frame.render_widget(table.header(Row::new(COLUMNS).bold()), body);
    frame.render_widget("! a stranger   - stopped   * stuck   q ends".dim(), foot);
}
