//! A figure for each of several ways, as a small drawing (SVG) that is readable on any background.

#![allow(unreachable_pub, reason = "a module of several crates")]

use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Rows of dots on one axis.
pub struct Plot<'a> {
    pub title: &'a str,
    pub unit: &'a str,
    /// Whether each step of the axis is ten times the one before.
    pub by_tens: bool,
    /// What the dots of a row are, if they are of different kinds.
    pub kinds: &'a [&'a str],
    pub rows: Vec<Row>,
}

pub struct Row {
    pub name: String,
    pub dots: Vec<f64>,
    /// What is written behind them.
    pub said: String,
}

const COLORS: [&str; 3] = ["#1a7f37", "#9a6700", "#cf222e"];
const LEFT: f64 = 160.0;
const WIDE: f64 = 330.0;
const TOP: f64 = 52.0;
const STEP: f64 = 22.0;

impl Plot<'_> {
    fn ends(&self) -> (f64, f64) {
        let dots = self.rows.iter().flat_map(|row| &row.dots);
        let most = dots.clone().copied().fold(f64::MIN_POSITIVE, f64::max);
        let least = dots.copied().fold(most, f64::min);
        match self.by_tens {
            true => (least.log10().floor(), most.log10().ceil()),
            false => (0.0, most * 1.05),
        }
    }

    fn at(&self, value: f64) -> f64 {
        let (from, to) = self.ends();
        let value = if self.by_tens { value.log10() } else { value };
        LEFT + (value - from) / (to - from) * WIDE
    }

    fn ticks(&self) -> Vec<f64> {
        let (from, to) = self.ends();
        if self.by_tens {
            let all = from as i32..=to as i32;
            return all.map(|power| 10f64.powi(power)).collect();
        }
        // Of 1, 2 and 5 with zeros, what gives up to six steps.
        let unit = 10f64.powf((to / 6.0).log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|n| n * unit);
        let step = steps.into_iter().find(|step| to / step <= 6.0);
        let step = step.unwrap_or(to);
        (0..=(to / step) as u32)
            .map(|n| f64::from(n) * step)
            .collect()
    }

    fn svg(&self) -> String {
        let bottom = TOP + STEP * self.rows.len() as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 600 {0}\" width=\"600\" height=\"{0}\" \
             font-family=\"sans-serif\" font-size=\"12\" fill=\"#1f2328\">\n\
             <rect width=\"600\" height=\"{0}\" rx=\"6\" fill=\"#fff\" stroke=\"#d0d7de\"/>\n\
             <text x=\"12\" y=\"20\" font-weight=\"bold\">{1}</text>\n",
            bottom + 38.0,
            self.title
        );
        let mut out = |line: String| writeln!(svg, "{line}").unwrap();
        for (at, kind) in self.kinds.iter().enumerate() {
            let (x, color) = (LEFT + 70.0 * at as f64, COLORS[at % 3]);
            out(format!(
                "<circle cx=\"{x:.0}\" cy=\"36\" r=\"4\" fill=\"{color}\"/>"
            ));
            out(format!("<text x=\"{:.0}\" y=\"40\">{kind}</text>", x + 8.0));
        }
        for tick in self.ticks() {
            let x = self.at(tick);
            let line = format!("<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#d0d7de\"/>");
            let text = format!(
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
                bottom + 15.0
            );
            out(line + &text);
        }
        out(format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            LEFT + WIDE / 2.0,
            bottom + 30.0,
            self.unit
        ));
        for (row, n) in self.rows.iter().zip(0..) {
            let y = TOP + STEP * (f64::from(n) + 0.5);
            let text = y + 4.0;
            out(format!("<text x=\"12\" y=\"{text}\">{}</text>", row.name));
            let x = |value: &f64| self.at(*value);
            let from = row.dots.iter().map(x).fold(f64::MAX, f64::min);
            let to = row.dots.iter().map(x).fold(0.0, f64::max);
            out(format!(
                "<path d=\"M{from:.1} {y}H{to:.1}\" stroke=\"#8c959f\"/>"
            ));
            for (dot, at) in row.dots.iter().zip(0..) {
                let color = match self.kinds.is_empty() {
                    true => "#0969da",
                    false => COLORS[at % 3],
                };
                let x = x(dot);
                out(format!(
                    "<circle cx=\"{x:.1}\" cy=\"{y}\" r=\"4\" fill=\"{color}\" fill-opacity=\".8\"/>"
                ));
            }
            out(format!(
                "<text x=\"{}\" y=\"{text}\">{}</text>",
                LEFT + WIDE + 14.0,
                row.said
            ));
        }
        svg + "</svg>\n"
    }

    /// Writes it into a folder, and all that are there as addresses into one file: rustdoc has no place for files.
    pub fn draw(&self, folder: &Path, name: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(name).with_extension("svg"), self.svg()).unwrap();
        let files = fs::read_dir(folder).unwrap().flatten();
        let mut files: Vec<_> = files.map(|file| file.path()).collect();
        files.sort();
        let mut addresses = String::new();
        for file in files
            .iter()
            .filter(|file| file.extension() == Some("svg".as_ref()))
        {
            let name = file.file_stem().unwrap().to_string_lossy();
            let svg = fs::read(file).unwrap();
            write!(addresses, "[{name}]: data:image/svg+xml,").unwrap();
            for byte in svg {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'/' | b'=' | b':' => {
                        addresses.push(byte.into());
                    }
                    _ => write!(addresses, "%{byte:02X}").unwrap(),
                }
            }
            addresses.push('\n');
        }
        fs::write(folder.join("plots.md"), addresses).unwrap();
    }
}
