//! Inputs from files: pictures, NumPy arrays, tables, MNIST's IDX.

use crate::arrays::{SAMPLE, arrays, budget};
use crate::{Error, Result, idx, pictures, tables};
use sordino_nn::{Network, Tensor};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

pub use crate::pictures::is_picture;
pub use crate::preprocess::{Channels, Layout, Preprocess};

/// What pixels of IDX files, and of pictures whose rows are images, are multiplied by if nothing else is said.
pub const PIXEL: f32 = 1.0 / 255.0;

/// What one sample of a model's input is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// The model's name for it.
    pub name: String,
    /// Its dimensions, the batch's being one.
    pub dims: Vec<usize>,
    /// The axis of the batch; none where a sample is all that the model takes.
    pub batch: Option<usize>,
}

impl Take {
    /// The inputs of a network that is typed for one sample.
    #[must_use]
    pub fn all(net: &Network) -> Vec<Self> {
        let take = |(i, &id): (usize, &usize)| Self {
            name: net.names[id].clone(),
            dims: net.shapes[id].clone(),
            batch: net.batch.as_ref().map(|b| b.inputs[i]),
        };
        net.inputs.iter().enumerate().map(take).collect()
    }
}

impl From<&[usize]> for Take {
    fn from(dims: &[usize]) -> Self {
        Self { name: "x".into(), dims: dims.to_vec(), batch: Some(0) }
    }
}

impl<const N: usize> From<&[usize; N]> for Take {
    fn from(dims: &[usize; N]) -> Self {
        Self::from(&dims[..])
    }
}

impl From<&Take> for Take {
    fn from(take: &Take) -> Self {
        take.clone()
    }
}

/// True for a file that is read as IDX.
#[must_use]
pub fn is_idx(path: &Path) -> bool {
    let name = path.to_string_lossy().to_lowercase();
    name.contains("idx") && (name.ends_with(".gz") || name.ends_with("ubyte"))
}

/// Reads files as single samples of the model's input; scale, mean and deviation apply to all kinds of files alike.
///
/// # Errors
/// [`Error::File`] names the file and what does not fit.
pub fn read(paths: &[PathBuf], take: impl Into<Take>, preprocess: &Preprocess) -> Result<Vec<Tensor>> {
    let take = take.into();
    let mut all = vec![];
    for path in paths {
        let fault = |why: String| Error::File { path: path.clone(), why };
        if is_picture(path) || !is_table(path) {
            all.push(pictures::read(path, &take.dims, preprocess)?);
            continue;
        }
        let found = match kind(path) {
            "npy" | "npz" => match arrays(path)? {
                one if one.len() < 2 => one,
                // Which of several is meant must be clear.
                several => {
                    let named = |name: &str| several.iter().position(|a| a.0 == name);
                    let Some(at) = named(&take.name).or_else(|| named("x")) else {
                        let names = several.iter().map(|a| a.0.as_str()).collect::<Vec<_>>().join(", ");
                        return Err(fault(format!("it holds arrays {names}; the model's input is {}", take.name)));
                    };
                    several.into_iter().skip(at).take(1).collect()
                }
            },
            _ if tables::is(path) => vec![(String::new(), tables::numbers(path, preprocess)?)],
            _ => vec![(String::new(), idx::array(path)?)],
        };
        let size = std::fs::metadata(path).map_err(Error::at(path))?.len();
        let per_sample: usize = take.dims.iter().product::<usize>().max(1);
        let made = |x: &Tensor| x.data.len() / per_sample * (per_sample + SAMPLE);
        if found.iter().map(|f| made(&f.1)).sum::<usize>() > budget(size) {
            return Err(fault("it holds more samples than are read from a file of its size; split it".into()));
        }
        let scale = if is_idx(path) { PIXEL } else { 1.0 };
        for (i, (name, x)) in found.into_iter().enumerate() {
            let named = if name.is_empty() { format!("array {i}") } else { format!("array {name}") };
            let samples = scaled_samples(&x, &take, preprocess, scale);
            all.extend(samples.map_err(|why| fault(format!("{named}: {why}")))?);
        }
    }
    finite(&all).map_err(Error::Usage)?;
    Ok(all)
}

/// A file's ending, in small letters.
fn kind(path: &Path) -> &'static str {
    let name = path.to_string_lossy().to_lowercase();
    ["npy", "npz"].into_iter().chain(tables::ENDINGS).find(|kind| name.ends_with(&format!(".{kind}"))).unwrap_or("")
}

/// True for a file of numbers.
fn is_table(path: &Path) -> bool {
    !kind(path).is_empty() || is_idx(path)
}

fn finite(samples: &[Tensor]) -> std::result::Result<(), String> {
    let wrong = |x: &Tensor| x.data.iter().position(|v| !v.is_finite());
    match samples.iter().enumerate().find_map(|(i, x)| Some((i, wrong(x)?))) {
        None => Ok(()),
        Some((i, at)) => Err(format!("input {i}: element {at} is {}, not a finite number", samples[i].data[at])),
    }
}

/// An array as single samples of the model's input; scale, mean and deviation apply if they are given.
///
/// # Errors
/// One sentence on what does not fit.
pub fn samples(x: &Tensor, take: impl Into<Take>, p: &Preprocess) -> std::result::Result<Vec<Tensor>, String> {
    let samples = scaled_samples(x, &take.into(), p, 1.0)?;
    finite(&samples)?;
    Ok(samples)
}

fn scaled_samples(x: &Tensor, take: &Take, p: &Preprocess, scale: f32) -> std::result::Result<Vec<Tensor>, String> {
    if p.channels == Some(Channels::Bgr) {
        return Err("the channels of an array are the model's own; --channels bgr is for pictures".into());
    }
    let mut samples = split(x, take)?;
    for sample in &mut samples {
        p.apply(sample, scale)?;
    }
    Ok(samples)
}

/// An array with or without a batch axis as samples of batch one.
fn split(x: &Tensor, take: &Take) -> std::result::Result<Vec<Tensor>, String> {
    let one = &take.dims;
    let sample: usize = one.iter().product();
    let whole = |x: &Tensor| vec![Tensor::new(one, x.data.clone())];
    let plain = |d: &[usize]| d.iter().copied().filter(|&v| v != 1).collect::<Vec<_>>();
    if x.dims == *one {
        return Ok(whole(x));
    }
    if let Some(axis) = take.batch.filter(|&a| a > 0) {
        // Samples lie side by side.
        if x.dims.len() == one.len() && (0..one.len()).all(|a| a == axis || x.dims[a] == one[a]) {
            let order: Vec<usize> = std::iter::once(axis).chain((0..one.len()).filter(|&a| a != axis)).collect();
            let moved = x.permute(&order);
            return Ok(moved.data.chunks_exact(sample.max(1)).map(|s| Tensor::new(one, s.to_vec())).collect());
        }
    }
    if plain(&x.dims) == plain(one) {
        return Ok(whole(x));
    }
    if x.dims.is_empty() || sample == 0 || plain(&x.dims[1..]) != plain(one) {
        let many = if take.batch.is_some() { "" } else { " whole, because it does not compute samples each by itself" };
        return Err(format!("its shape is {:?} where the model takes {one:?}{many}", x.dims));
    }
    Ok(x.data.chunks_exact(sample).map(|s| Tensor::new(one, s.to_vec())).collect())
}

/// The shape of the first array of a file, if it holds arrays.
///
/// # Errors
/// [`Error::File`].
pub fn shape(path: &Path) -> Result<Option<Vec<usize>>> {
    match kind(path) {
        "npy" | "npz" => Ok(arrays(path)?.into_iter().next().map(|(_, x)| x.dims)),
        _ => Ok(None),
    }
}

/// The arrays of an archive that are called as a model's inputs are, one sample from each.
///
/// # Errors
/// [`Error::File`] when an input has no array, or one that does not fit; as for [`side_by_side`].
pub fn by_name(path: &Path, takes: &[(String, Take)], preprocess: &Preprocess) -> Result<Vec<Vec<Tensor>>> {
    let fault = |why: String| Error::File { path: path.into(), why };
    let all = arrays(path)?;
    let mut columns = vec![];
    for (name, take) in takes {
        let Some((_, x)) = all.iter().find(|a| a.0 == *name) else {
            let names = all.iter().map(|a| a.0.as_str()).collect::<Vec<_>>().join(", ");
            return Err(fault(format!("it holds {names}, but no array for input {name}")));
        };
        columns.push(samples(x, take, preprocess).map_err(|why| fault(format!("array {name}: {why}")))?);
    }
    side_by_side(columns, takes)
}

/// Samples of several inputs, which must be as many of each.
///
/// # Errors
/// [`Error::Usage`] when they are not.
pub fn side_by_side(columns: Vec<Vec<Tensor>>, takes: &[(String, Take)]) -> Result<Vec<Vec<Tensor>>> {
    let n = columns.first().map_or(0, Vec::len);
    if let Some(at) = columns.iter().position(|c| c.len() != n) {
        let (first, other, m) = (&takes[0].0, &takes[at].0, columns[at].len());
        return Err(Error::Usage(format!("{n} samples for input {first}, but {m} for input {other}")));
    }
    let mut rows: Vec<Vec<Tensor>> = (0..n).map(|_| vec![]).collect();
    for column in columns {
        rows.iter_mut().zip(column).for_each(|(row, x)| row.push(x));
    }
    Ok(rows)
}

pub(crate) fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).map_err(Error::at(path))?;
    // A folder opens, and fails when it is read.
    if file.metadata().map_err(Error::at(path))?.is_dir() {
        return Err(Error::at(path)(std::io::ErrorKind::IsADirectory.into()));
    }
    Ok(BufReader::new(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_split() {
        let x = Tensor::new(&[2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let got = split(&x, &Take::from(&[1, 3])).unwrap_or_default();
        assert_eq!(got.len(), 2);
        assert_eq!(got[1].data, [4.0, 5.0, 6.0]);
        assert!(split(&x, &Take::from(&[1, 4])).is_err());
        let side = split(&x, &Take { batch: Some(1), ..Take::from(&[2, 1]) }).unwrap_or_default();
        assert_eq!(side.iter().map(|s| s.data.clone()).collect::<Vec<_>>(), [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]);
        assert_eq!(split(&x, &Take { batch: None, ..Take::from(&[2, 3]) }).map(|s| s.len()), Ok(1));
        assert!(split(&x, &Take { batch: None, ..Take::from(&[1, 3]) }).is_ok_and(|s| s.len() == 2));
    }
}
