//! Tables of comma- or tab-separated values.

use crate::arrays::budget;
use crate::inputs::open;
use crate::{Error, Result};
use sordino_nn::Tensor;
use std::path::Path;

/// A table: names of its columns, if its first line holds any, and its cells as they are written.
pub(crate) struct Table {
    pub(crate) names: Option<Vec<String>>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// Reads a table. A first line without numbers, or of the columns' own, is one of names.
pub(crate) fn read(path: &Path) -> Result<Table> {
    let fault = |why: String| Error::File { path: path.into(), why };
    let file = open(path)?;
    let size = file.get_ref().metadata().map_err(Error::at(path))?.len();
    let tabs = path.to_string_lossy().to_lowercase().ends_with(".tsv");
    let delimiter = if tabs { b'\t' } else { b',' };
    let mut reader =
        csv::ReaderBuilder::new().delimiter(delimiter).has_headers(false).trim(csv::Trim::All).from_reader(file);
    let (mut rows, mut left): (Vec<Vec<String>>, usize) = (vec![], budget(size));
    for record in reader.records() {
        let record = record.map_err(|e| fault(format!("not a readable table: {e}")))?;
        left =
            left.checked_sub(record.len() * 8 + 8).ok_or_else(|| fault("it holds more cells than are read".into()))?;
        rows.push(record.iter().map(str::to_string).collect());
    }
    // A line of names has no numbers in it, but for the columns' own, as pandas writes them where there are no names.
    let heading = rows.first().is_some_and(|first| {
        let names = first.iter().all(|cell| cell.parse::<f32>().is_err()) && first.iter().any(|cell| !cell.is_empty());
        let counted = first.len() > 1 && first.iter().enumerate().all(|(i, cell)| *cell == i.to_string());
        names || counted && rows.len() > 1
    });
    let names = heading.then(|| rows.remove(0));
    if rows.is_empty() {
        let why =
            if names.is_some() { "its only line is taken for names; it holds no rows" } else { "it holds no rows" };
        return Err(fault(why.into()));
    }
    Ok(Table { names, rows })
}

impl Table {
    /// What a column is called in a sentence.
    fn called(&self, column: usize) -> String {
        match self.names.as_ref().and_then(|n| n.get(column)) {
            Some(name) => format!("column {name}"),
            None => format!("column {}", column + 1),
        }
    }

    /// The numbers of these columns, a row for each row.
    pub(crate) fn numbers(&self, columns: &[usize]) -> std::result::Result<Tensor, String> {
        let mut data = Vec::with_capacity(self.rows.len() * columns.len());
        // The first line of a file is 1.
        let first = 1 + usize::from(self.names.is_some());
        for (i, row) in self.rows.iter().enumerate() {
            for &column in columns {
                let cell = row.get(column).map_or("", |c| c.as_str());
                let place = || format!("line {}, {}", i + first, self.called(column));
                if cell.is_empty() || matches!(cell.to_lowercase().as_str(), "nan" | "na" | "n/a" | "null" | "none") {
                    return Err(format!("{}: a value is missing; fill it in, or leave the row out", place()));
                }
                match cell.parse::<f32>() {
                    Ok(v) if v.is_finite() => data.push(v),
                    Ok(v) => return Err(format!("{}: {v} is not a finite number", place())),
                    Err(_) if row.len() == 1 && cell.contains([';', '\t']) => {
                        return Err(format!("{}: columns are separated by commas in .csv, by tabs in .tsv", place()));
                    }
                    Err(_) => {
                        return Err(format!(
                            "{}: {cell} is no number; write categories as columns of 0 and 1",
                            place()
                        ));
                    }
                }
            }
        }
        Ok(Tensor::new(&[self.rows.len(), columns.len()], data))
    }

    /// The columns of a table, without the one of this name: that one and the others.
    pub(crate) fn apart(&self, label: &str) -> std::result::Result<(usize, Vec<usize>), String> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let names = self.names.clone().unwrap_or_default();
        let at = names
            .iter()
            .position(|n| n == label)
            .ok_or_else(|| format!("it has no column {label}; its columns are {}", names.join(", ")))?;
        Ok((at, (0..columns).filter(|&c| c != at).collect()))
    }

    /// A column as it is written.
    pub(crate) fn texts(&self, column: usize) -> Vec<String> {
        self.rows.iter().map(|row| row.get(column).cloned().unwrap_or_default()).collect()
    }
}

/// All numbers of a table.
pub(crate) fn numbers(path: &Path) -> Result<Tensor> {
    let table = read(path)?;
    let columns: Vec<usize> = (0..table.rows[0].len()).collect();
    table.numbers(&columns).map_err(|why| Error::File { path: path.into(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_numbers_or_named() {
        let table = |names: Option<[&str; 2]>, rows: &[[&str; 2]]| Table {
            names: names.map(|n| n.map(String::from).to_vec()),
            rows: rows.iter().map(|r| r.map(String::from).to_vec()).collect(),
        };
        let all = table(Some(["age", "sum"]), &[["1", "2.5"], ["3", "-4e1"]]);
        assert_eq!(all.numbers(&[0, 1]).map(|t| t.data), Ok(vec![1.0, 2.5, 3.0, -40.0]));
        assert_eq!(all.apart("sum"), Ok((1, vec![0])));
        assert!(all.apart("none").is_err_and(|why| why.contains("age, sum")));
        let gap = table(Some(["age", "sum"]), &[["1", "NA"]]);
        assert!(gap.numbers(&[1]).is_err_and(|why| why.contains("line 2, column sum")));
        let word = table(None, &[["1", "red"]]);
        assert!(word.numbers(&[1]).is_err_and(|why| why.contains("column 2: red")));
    }
}
