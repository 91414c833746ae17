//! Tables of comma- or tab-separated values.

use crate::arrays::budget;
use crate::inputs::open;
use crate::preprocess::Preprocess;
use crate::{Error, Result};
use sordino_nn::Tensor;
use std::collections::BTreeMap;
use std::path::Path;

/// A table: names of its columns, if its first line holds any, and its cells as they are written.
pub(crate) struct Table {
    pub(crate) names: Option<Vec<String>>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// Endings of files that are tables. Parquet is refused with a word of its own: its reader trusts what a file says of itself.
pub(crate) const ENDINGS: [&str; 3] = ["csv", "tsv", "parquet"];

/// Whether a file is a table, by its name.
pub(crate) fn is(path: &Path) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    ending.is_some_and(|e| ENDINGS.contains(&e.as_str()))
}

/// Reads a table. A first line without numbers, or of the columns' own, is one of names.
pub(crate) fn read(path: &Path) -> Result<Table> {
    let fault = |why: String| Error::File { path: path.into(), why };
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet")) {
        return Err(fault("Parquet is not read; write it as .csv (pandas: to_csv(..., index=False)) or .npy".into()));
    }
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

    /// What a row is called in a sentence.
    pub(crate) fn row(&self, i: usize) -> String {
        // The first line of a file is 1.
        format!("line {}", i + 1 + usize::from(self.names.is_some()))
    }

    /// The words of every category, by its column.
    fn categories<'a>(&self, asked: &'a Preprocess) -> std::result::Result<BTreeMap<usize, &'a [String]>, String> {
        let mut found = BTreeMap::new();
        for category in asked.categories.iter().flatten() {
            let named = self.names.iter().flatten().position(|n| *n == category.column);
            let numbered = category.column.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
            let column = named.or(numbered.filter(|_| self.names.is_none()));
            let column = column.filter(|c| *c < self.rows.first().map_or(0, Vec::len)).ok_or_else(|| {
                let names = self.names.clone().unwrap_or_default().join(", ");
                format!("--category {}: it has no such column; its columns are {names}", category.column)
            })?;
            found.insert(column, &category.words[..]);
        }
        Ok(found)
    }

    /// These columns in the model's order, where both it and the table have names.
    fn ordered(&self, columns: &[usize], asked: &Preprocess) -> std::result::Result<Vec<usize>, String> {
        let (Some(names), Some(want)) = (&self.names, &asked.columns) else { return Ok(columns.to_vec()) };
        let called = |c: usize| names.get(c).map_or("", String::as_str);
        if let Some(other) = columns.iter().find(|c| !want.iter().any(|w| w == called(**c))) {
            return Err(format!("column {} is none of the model's, which are {}", called(*other), want.join(", ")));
        }
        if let Some(twice) = columns.iter().find(|c| columns.iter().filter(|d| called(**d) == called(**c)).count() > 1)
        {
            return Err(format!("column {} is there twice", called(*twice)));
        }
        let find = |w: &String| {
            columns.iter().copied().find(|c| called(*c) == w).ok_or_else(|| format!("it has no column {w}"))
        };
        want.iter().map(find).collect()
    }

    /// The numbers of these columns, a row for each row. A category becomes a column of zeros and ones for each of its words.
    pub(crate) fn numbers(&self, columns: &[usize], asked: &Preprocess) -> std::result::Result<Tensor, String> {
        let mut data = Vec::with_capacity(self.rows.len() * columns.len());
        let (categories, columns) = (self.categories(asked)?, self.ordered(columns, asked)?);
        for (i, row) in self.rows.iter().enumerate() {
            for &column in &columns {
                let cell = row.get(column).map_or("", |c| c.as_str());
                let place = || format!("{}, {}", self.row(i), self.called(column));
                let missing =
                    cell.is_empty() || matches!(cell.to_lowercase().as_str(), "nan" | "na" | "n/a" | "null" | "none");
                if let Some(words) = categories.get(&column) {
                    // A word may be written like one that is missing.
                    let known = words.iter().any(|w| w == cell);
                    if !(known || missing && asked.missing.is_some()) {
                        let what = if missing { "a value is missing".into() } else { format!("{cell} is none") };
                        return Err(format!("{}: {what} of the category's {}", place(), words.join(", ")));
                    }
                    data.extend(words.iter().map(|w| f32::from(u8::from(w == cell))));
                    continue;
                }
                if missing {
                    match asked.missing {
                        Some(fill) => data.push(fill),
                        None => {
                            return Err(format!(
                                "{}: a value is missing; fill it in, leave the row out, or set --missing NUMBER",
                                place()
                            ));
                        }
                    }
                    continue;
                }
                match cell.parse::<f32>() {
                    Ok(v) if v.is_finite() => data.push(v),
                    Ok(v) => return Err(format!("{}: {v} is not a finite number", place())),
                    Err(_) if row.len() == 1 && cell.contains([';', '\t']) => {
                        return Err(format!("{}: columns are separated by commas in .csv, by tabs in .tsv", place()));
                    }
                    Err(_) => {
                        return Err(format!(
                            "{}: {cell} is no number; a category is told by --category COLUMN=WORD,WORD,...",
                            place()
                        ));
                    }
                }
            }
        }
        let width = data.len() / self.rows.len().max(1);
        Ok(Tensor::new(&[self.rows.len(), width], data))
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
pub(crate) fn numbers(path: &Path, asked: &Preprocess) -> Result<Tensor> {
    let table = read(path)?;
    let columns: Vec<usize> = (0..table.rows[0].len()).collect();
    table.numbers(&columns, asked).map_err(|why| Error::File { path: path.into(), why })
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
        let none = Preprocess::default();
        let all = table(Some(["age", "sum"]), &[["1", "2.5"], ["3", "-4e1"]]);
        assert_eq!(all.numbers(&[0, 1], &none).map(|t| t.data), Ok(vec![1.0, 2.5, 3.0, -40.0]));
        assert_eq!(all.apart("sum"), Ok((1, vec![0])));
        assert!(all.apart("none").is_err_and(|why| why.contains("age, sum")));
        let gap = table(Some(["age", "sum"]), &[["1", "NA"]]);
        assert!(gap.numbers(&[1], &none).is_err_and(|why| why.contains("line 2, column sum")));
        let word = table(None, &[["1", "red"]]);
        assert!(word.numbers(&[1], &none).is_err_and(|why| why.contains("column 2: red")));
        // By their names, wherever they are.
        let named = |columns: &[&str]| Preprocess {
            columns: Some(columns.iter().map(|c| (*c).to_string()).collect()),
            ..Preprocess::default()
        };
        assert_eq!(all.numbers(&[0, 1], &named(&["sum", "age"])).map(|t| t.data), Ok(vec![2.5, 1.0, -40.0, 3.0]));
        assert!(all.numbers(&[0, 1], &named(&["age"])).is_err_and(|why| why.contains("sum is none of the model's")));
        assert!(all.numbers(&[0], &named(&["age", "height"])).is_err_and(|why| why.contains("no column height")));
        // As told.
        let told = |category: &str, missing: Option<f32>| Preprocess {
            categories: Some(vec![category.to_string().try_into().unwrap_or_default()]),
            missing,
            ..Preprocess::default()
        };
        assert_eq!(word.numbers(&[0, 1], &told("2=blue,red", None)).map(|t| t.data), Ok(vec![1.0, 0.0, 1.0]));
        assert!(word.numbers(&[0, 1], &told("2=blue,green", None)).is_err_and(|why| why.contains("red is none")));
        assert!(word.numbers(&[0], &told("colour=red,blue", None)).is_err_and(|why| why.contains("no such column")));
        assert_eq!(gap.numbers(&[0, 1], &told("age=1,2", Some(-1.0))).map(|t| t.data), Ok(vec![1.0, 0.0, -1.0]));
        let gap = table(Some(["age", "colour"]), &[["1", ""]]);
        assert!(gap.numbers(&[1], &told("colour=a,b", None)).is_err_and(|why| why.contains("missing")));
        assert_eq!(gap.numbers(&[1], &told("colour=a,b", Some(9.0))).map(|t| t.data), Ok(vec![0.0, 0.0]));
    }
}
