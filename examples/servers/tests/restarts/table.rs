//! The result: a row for each framework and kind of request.

use std::fmt;

use crate::form::{Kind, Protocol};
use crate::loss::Loss;
use crate::tally::{Cell, Counts};

pub(crate) struct Table(Vec<Row>);

struct Row {
    framework: String,
    protocol: Protocol,
    kind: Kind,
    cell: Cell,
    /// The same of the naive program.
    naive: Option<Cell>,
    sentences: Vec<String>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn add(
        &mut self,
        framework: &str,
        protocol: Protocol,
        counts: &Counts,
        naive: Option<&Counts>,
    ) {
        let from = self.0.len();
        let of = |counts: &Counts, kind| counts.cells.get(&kind).cloned().unwrap_or_default();
        let rows = protocol.kinds().iter().map(|&kind| Row {
            framework: framework.to_owned(),
            protocol,
            kind,
            cell: of(counts, kind),
            naive: naive.map(|naive| of(naive, kind)),
            sentences: counts.sentences.clone(),
        });
        self.0.extend(rows);
        for row in &self.0[from..] {
            println!("{row}");
        }
        for sentence in &counts.sentences {
            println!("{framework}: {sentence}");
        }
    }

    /// Nothing was lost of at least so many requests of each kind; and the naive programs lost some.
    #[track_caller]
    pub(crate) fn check(&self, requests: usize) {
        for row in &self.0 {
            let enough = row.cell.requests() >= requests;
            assert!(enough, "{row}: fewer than {requests}");
            let is_lossless = row.cell.lost() == 0 || row.protocol.limit(row.kind).is_some();
            assert!(is_lossless, "{row}: {:?}", row.sentences);
        }
        for row in &self.0 {
            let of_same = self
                .0
                .iter()
                .filter(|other| other.framework == row.framework);
            let naive: Option<usize> = of_same.map(|row| row.naive.as_ref().map(Cell::lost)).sum();
            assert_ne!(naive, Some(0), "{}: it proves nothing", row.framework);
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| framework | kind | requests | lost | given back | naive: requests | lost |"
        )?;
        writeln!(f, "|---|---|--:|--:|--:|--:|---|")?;
        for row in &self.0 {
            writeln!(f, "{row}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.name(self.protocol);
        let (requests, lost) = (self.cell.requests(), losses(&self.cell));
        let unsent = self.cell.unsent();
        write!(f, "| {} | {kind} | {requests} | {lost}", self.framework)?;
        if let Some(why) = self.protocol.limit(self.kind) {
            write!(f, " ({why})")?;
        }
        write!(f, " | {unsent} |")?;
        match &self.naive {
            Some(naive) => write!(f, " {} | {} |", naive.requests(), losses(naive)),
            None => f.write_str(" | |"),
        }
    }
}

/// How many were lost, and how.
fn losses(cell: &Cell) -> String {
    let mut text = cell.lost().to_string();
    if cell.lost() > 0 {
        let lost = cell
            .losses
            .iter()
            .filter(|(loss, _)| **loss != Loss::Unsent);
        let each = lost.map(|(loss, n)| format!("{n} {}", loss.name()));
        text += &format!(": {}", each.collect::<Vec<_>>().join(", "));
    }
    text
}
