//! One result in four forms: Markdown for the terminal, CSV and JSON for programs, SVG for eyes.

use super::Shown;
use crate::print;
use serde::Serialize;
use sordino::model::write_whole;
use sordino::{Error, Result};

/// A table of cells that are already text.
pub(crate) struct Table {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(ToString::to_string).collect(), rows: vec![] }
    }

    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = line(&self.columns);
        text += &format!("|{}\n", "---|".repeat(self.columns.len()));
        self.rows.iter().for_each(|r| text += &line(r));
        text
    }

    fn csv(&self) -> Result<Vec<u8>> {
        let fault = |e: csv::Error| Error::Session(e.to_string());
        let mut writer = csv::Writer::from_writer(vec![]);
        writer.write_record(&self.columns).map_err(fault)?;
        for row in &self.rows {
            writer.write_record(row).map_err(fault)?;
        }
        writer.into_inner().map_err(|e| Error::Session(e.to_string()))
    }
}

/// A finished benchmark.
pub(crate) struct Findings<'a, T: Serialize> {
    /// Names the files.
    pub(crate) name: &'a str,
    /// A heading and, below it, what was measured how.
    pub(crate) heading: &'a str,
    pub(crate) table: &'a Table,
    /// The same as a list of objects.
    pub(crate) data: &'a [T],
    pub(crate) svg: Option<String>,
}

impl<T: Serialize> Findings<'_, T> {
    /// Prints, then writes the files: what has been measured is told even where nothing can be written.
    pub(crate) fn publish(&self, to: &Shown) -> Result<()> {
        let fault = |e: serde_json::Error| Error::Session(e.to_string());
        if to.json {
            print(&format!("{}\n", serde_json::to_string(self.data).map_err(fault)?))?;
        } else {
            print(&format!("{}\n\n{}\n", self.heading, self.table.markdown()))?;
        }
        std::fs::create_dir_all(&to.out).map_err(Error::at(&to.out))?;
        let path = |extension: &str| to.out.join(format!("{}.{extension}", self.name));
        write_whole(&path("csv"), &self.table.csv()?)?;
        write_whole(&path("json"), &serde_json::to_vec_pretty(self.data).map_err(fault)?)?;
        match &self.svg {
            Some(svg) => write_whole(&path("svg"), svg.as_bytes()),
            None => Ok(()),
        }
    }
}

/// Seconds with three significant digits.
pub(crate) fn short(seconds: f64) -> String {
    match seconds {
        s if s < 0.1 => format!("{s:.4}"),
        s if s < 10.0 => format!("{s:.3}"),
        s => format!("{s:.1}"),
    }
}

/// Millions of bytes with three significant digits.
pub(crate) fn megabytes(bytes: u64) -> String {
    match bytes as f64 / 1e6 {
        m if m < 10.0 => format!("{m:.2}"),
        m if m < 100.0 => format!("{m:.1}"),
        m => format!("{m:.0}"),
    }
}

/// A figure if there is one.
pub(crate) fn or_empty(value: Option<f64>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}
