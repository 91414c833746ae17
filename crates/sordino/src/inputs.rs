//! Inputs from files: pictures, NumPy arrays, MNIST's IDX.

use crate::arrays::{SAMPLE, arrays, budget};
use crate::{Error, Result};
use flate2::read::GzDecoder;
use image::imageops::FilterType;
use sha2::{Digest, Sha256};
use sordino_nn::Tensor;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Order of a picture's axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Channels, height, width.
    Nchw,
    /// Height, width, channels.
    Nhwc,
}

/// Order of a picture's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel.
    Gray,
}

/// How pictures become tensors: `(pixel * scale - mean) / std`. What is not given follows from the model's input.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
#[serde(deny_unknown_fields, default)]
pub struct Preprocess {
    /// Height and width pictures are brought to: the shorter side is scaled, the middle cut out.
    #[cfg_attr(feature = "clap", arg(long))]
    pub size: Option<u32>,
    /// Order of the model's axes.
    #[cfg_attr(feature = "clap", arg(long, value_enum))]
    pub layout: Option<Layout>,
    /// Order of the model's channels.
    #[cfg_attr(feature = "clap", arg(long, value_enum))]
    pub channels: Option<Channels>,
    /// Subtracted from each channel, after scaling.
    #[cfg_attr(feature = "clap", arg(long, value_delimiter = ',', allow_hyphen_values = true))]
    pub mean: Option<Vec<f32>>,
    /// Each channel is divided by it, after subtracting the mean.
    #[cfg_attr(feature = "clap", arg(long, value_delimiter = ','))]
    pub std: Option<Vec<f32>>,
    /// Factor for pixel values of 0 to 255 (1/255 for IDX, 1 otherwise, if not given).
    #[cfg_attr(feature = "clap", arg(long, allow_negative_numbers = true, value_parser = factor))]
    pub scale: Option<f32>,
}

impl Preprocess {
    /// What was given, then what a TOML file beside the model says.
    ///
    /// # Errors
    /// [`Error::File`] when such a file is there and wrong.
    pub fn or_beside(self, model: &Path) -> Result<Self> {
        let path = model.with_extension("toml");
        if !path.exists() {
            return Ok(self);
        }
        let text = std::fs::read_to_string(&path).map_err(Error::at(&path))?;
        let file: Self = toml::from_str(&text).map_err(|e| Error::File { path, why: e.message().to_string() })?;
        Ok(self.or(file))
    }

    /// What was given, then what another says.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        Self {
            size: self.size.or(file.size),
            layout: self.layout.or(file.layout),
            channels: self.channels.or(file.channels),
            mean: self.mean.or(file.mean),
            std: self.std.or(file.std),
            scale: self.scale.or(file.scale),
        }
    }
}

impl Preprocess {
    /// SHA-256 of all of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(serde_json::to_vec(self).unwrap_or_default()).into()
    }

    /// The TOML file that tells a trained model how to read pictures as its training's were read; `None` when there is
    /// nothing to tell.
    #[must_use]
    pub fn beside(&self) -> Option<String> {
        let mut text = String::new();
        if let Some(scale) = self.scale {
            text += &format!("scale = {scale}\n");
        }
        for (name, list) in [("mean", &self.mean), ("std", &self.std)] {
            if let Some(list) = list {
                text += &format!("{name} = {list:?}\n");
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

/// A factor that leaves something of a pixel.
#[cfg(feature = "clap")]
fn factor(text: &str) -> std::result::Result<f32, String> {
    match text.parse() {
        Ok(f) if f32::is_finite(f) && f != 0.0 => Ok(f),
        _ => Err("expected a number other than zero".into()),
    }
}

/// What pixels of IDX files, and of pictures whose rows are images, are multiplied by if nothing else is said.
pub const PIXEL: f32 = 1.0 / 255.0;

/// True for a file that is read as IDX.
#[must_use]
pub fn is_idx(path: &Path) -> bool {
    let name = path.to_string_lossy().to_lowercase();
    name.contains("idx") && (name.ends_with(".gz") || name.ends_with("ubyte"))
}

/// Reads files as single samples of the model's input, whose dimensions are `dims` (batch first).
///
/// # Errors
/// [`Error::File`] names the file and what does not fit.
pub fn read(paths: &[PathBuf], dims: &[usize], preprocess: &Preprocess) -> Result<Vec<Tensor>> {
    let mut samples = vec![];
    for path in paths {
        let fault = |why: String| Error::File { path: path.clone(), why };
        let name = path.to_string_lossy().to_lowercase();
        let found = if name.ends_with(".npy") || name.ends_with(".npz") {
            arrays(path)?.into_iter().map(|(_, x)| x).collect()
        } else if is_idx(path) {
            idx(path, preprocess)?
        } else {
            vec![picture(path, dims, preprocess)?]
        };
        let size = std::fs::metadata(path).map_err(Error::at(path))?.len();
        let per_sample: usize = dims.iter().skip(1).product::<usize>().max(1);
        let made = |x: &Tensor| x.data.len() / per_sample * (per_sample + SAMPLE);
        if found.iter().map(made).sum::<usize>() > budget(size) {
            return Err(fault("it holds more samples than are read from a file of its size; split it".into()));
        }
        for (i, x) in found.into_iter().enumerate() {
            samples.extend(split(x, dims).map_err(|why| fault(format!("array {i}: {why}")))?);
        }
    }
    finite(&samples).map_err(Error::Usage)?;
    Ok(samples)
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
pub fn samples(x: &Tensor, dims: &[usize], p: &Preprocess) -> std::result::Result<Vec<Tensor>, String> {
    let mut samples = split(x.clone(), dims)?;
    finite(&samples)?;
    let scale = p.scale.unwrap_or(1.0);
    let channels = dims.get(1).copied().unwrap_or(1);
    let of = |list: &Option<Vec<f32>>, c: usize, default: f32| match list.as_deref() {
        Some([one]) => *one,
        Some(all) => all.get(c).copied().unwrap_or(default),
        None => default,
    };
    if p.scale.is_some() || p.mean.is_some() || p.std.is_some() {
        for sample in &mut samples {
            let inner = (sample.data.len() / channels).max(1);
            for (i, v) in sample.data.iter_mut().enumerate() {
                *v = (*v * scale - of(&p.mean, i / inner, 0.0)) / of(&p.std, i / inner, 1.0);
            }
        }
    }
    Ok(samples)
}

/// True for a file that is read as a picture.
#[must_use]
pub fn is_picture(path: &Path) -> bool {
    let name = path.to_string_lossy().to_lowercase();
    name.ends_with(".png") || name.ends_with(".jpg") || name.ends_with(".jpeg")
}

/// An array with or without a batch axis as samples of batch one.
fn split(x: Tensor, dims: &[usize]) -> std::result::Result<Vec<Tensor>, String> {
    let sample: usize = dims.iter().skip(1).product();
    let mut one = dims.to_vec();
    one.iter_mut().take(1).for_each(|batch| *batch = 1);
    let plain = |d: &[usize]| d.iter().copied().filter(|&v| v != 1).collect::<Vec<_>>();
    if plain(&x.dims) == plain(&one) {
        return Ok(vec![Tensor::new(&one, x.data)]);
    }
    if x.dims.is_empty() || sample == 0 || plain(&x.dims[1..]) != plain(&one) {
        return Err(format!("its shape is {:?} where the model takes {one:?}", x.dims));
    }
    Ok(x.data.chunks_exact(sample).map(|s| Tensor::new(&one, s.to_vec())).collect())
}

fn picture(path: &Path, dims: &[usize], p: &Preprocess) -> Result<Tensor> {
    let fault = |why: String| Error::File { path: path.into(), why };
    if dims.len() != 4 {
        return Err(fault(format!("the model takes {dims:?}, not pictures; give a .npy file")));
    }
    let guess = if matches!(dims[3], 1 | 3) && !matches!(dims[1], 1 | 3) { Layout::Nhwc } else { Layout::Nchw };
    let layout = p.layout.unwrap_or(guess);
    let [c, h, w] = match layout {
        Layout::Nchw => [dims[1], dims[2], dims[3]],
        Layout::Nhwc => [dims[3], dims[1], dims[2]],
    };
    if let Some(size) = p.size
        && (size as usize, size as usize) != (h, w)
    {
        return Err(fault(format!("a size of {size} was asked for where the model takes {h} by {w}")));
    }
    let channels = p.channels.unwrap_or(if c == 1 { Channels::Gray } else { Channels::Rgb });
    if c != if channels == Channels::Gray { 1 } else { 3 } {
        let why = match c {
            1 | 3 => format!("--channels does not give the {c} the model takes; gray is one, rgb and bgr are three"),
            _ => format!("as {layout:?} the model's input {dims:?} has {c} channels; is --layout right?"),
        };
        return Err(fault(why));
    }
    let picture = decoded(open(path)?).map_err(|e| {
        fault(format!("not a readable picture ({e}); inputs are PNG, JPEG, .npy, .npz or MNIST IDX files"))
    })?;
    let picture = if (picture.height() as usize, picture.width() as usize) == (h, w) {
        picture
    } else {
        // Cut before it is scaled: a long strip would be scaled in its whole length.
        let [left, top, width, height] = middle([picture.width(), picture.height()], [w as u32, h as u32]);
        let cut = picture.crop_imm(left, top, width, height);
        cut.resize_exact(w as u32, h as u32, FilterType::Triangle)
    };
    let pixels: Vec<u8> = match channels {
        Channels::Gray => picture.to_luma8().into_raw(),
        Channels::Rgb => picture.to_rgb8().into_raw(),
        Channels::Bgr => picture.to_rgb8().pixels().flat_map(|p| [p[2], p[1], p[0]]).collect(),
    };
    normalised(&pixels, [h, w, c], layout, p, 1.0)
}

pub(crate) fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).map_err(Error::at(path))?;
    // A folder opens, and fails when it is read.
    if file.metadata().map_err(Error::at(path))?.is_dir() {
        return Err(Error::at(path)(std::io::ErrorKind::IsADirectory.into()));
    }
    Ok(BufReader::new(file))
}

/// A picture's width and height.
fn sizes(file: BufReader<File>) -> image::ImageResult<(u32, u32)> {
    image::ImageReader::new(file).with_guessed_format()?.into_dimensions()
}

/// Reads a picture, with a limit on the memory it takes.
fn decoded(file: BufReader<File>) -> image::ImageResult<image::DynamicImage> {
    let mut reader = image::ImageReader::new(file).with_guessed_format()?;
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(512 << 20);
    reader.limits(limits);
    reader.decode()
}

/// The middle of a picture that has the proportions of what it is scaled to: left, top, width, height.
fn middle([width, height]: [u32; 2], [w, h]: [u32; 2]) -> [u32; 4] {
    let (w, h) = (u64::from(w.max(1)), u64::from(h.max(1)));
    let part = |whole: u32, other: u32, a: u64, b: u64| {
        let rounded = (2 * u64::from(other) * a + b) / (2 * b);
        u32::try_from(rounded).unwrap_or(u32::MAX).clamp(1, whole.max(1))
    };
    let wide = u64::from(width) * h > u64::from(height) * w;
    let [cut_w, cut_h] = if wide { [part(width, height, w, h), height] } else { [width, part(height, width, h, w)] };
    [(width - cut_w.min(width)) / 2, (height - cut_h.min(height)) / 2, cut_w, cut_h]
}

/// A picture each row of which is an image of the model's size; pixels count from 0 to 1 if nothing else is said.
///
/// # Errors
/// [`Error::File`].
pub fn rows(path: &Path, dims: &[usize], p: &Preprocess) -> Result<Vec<Tensor>> {
    let fault = |why: String| Error::File { path: path.into(), why };
    let [_, c @ (1 | 3), h, w] = *dims else {
        return Err(fault(format!("the model takes {dims:?}, not pictures of one or three channels")));
    };
    let (width, height) = sizes(open(path)?).map_err(|e| fault(format!("not a readable picture ({e})")))?;
    let size = std::fs::metadata(path).map_err(Error::at(path))?.len();
    if (width as usize).saturating_mul(height as usize).saturating_mul(c) > budget(size) {
        return Err(fault(format!("{height} rows of {width} pixels are more than are read from a file of its size")));
    }
    let picture = decoded(open(path)?).map_err(|e| fault(format!("not a readable picture ({e})")))?;
    if picture.width() as usize != h * w {
        return Err(fault(format!("its rows have {} pixels; images of {h} by {w} have {}", picture.width(), h * w)));
    }
    let pixels = if c == 1 { picture.to_luma8().into_raw() } else { picture.to_rgb8().into_raw() };
    pixels.chunks_exact(h * w * c).map(|one| normalised(one, [h, w, c], Layout::Nchw, p, PIXEL)).collect()
}

/// Pixels, channels last, as a sample of batch one.
fn normalised(pixels: &[u8], [h, w, c]: [usize; 3], layout: Layout, p: &Preprocess, scale: f32) -> Result<Tensor> {
    let per_channel = |given: &Option<Vec<f32>>, default: f32, name: &str| match given.as_deref() {
        None => Ok(vec![default; c]),
        Some([one]) => Ok(vec![*one; c]),
        Some(v) if v.len() == c => Ok(v.to_vec()),
        Some(v) => Err(Error::Usage(format!("--{name} has {} values for {c} channels", v.len()))),
    };
    let (mean, std) = (per_channel(&p.mean, 0.0, "mean")?, per_channel(&p.std, 1.0, "std")?);
    if std.contains(&0.0) {
        return Err(Error::Usage("--std holds a zero".into()));
    }
    let scale = p.scale.unwrap_or(scale);
    let nhwc = pixels.iter().enumerate().map(|(i, &v)| (f32::from(v) * scale - mean[i % c]) / std[i % c]).collect();
    let nhwc = Tensor::new(&[1, h, w, c], nhwc);
    Ok(if layout == Layout::Nhwc { nhwc } else { nhwc.permute(&[0, 3, 1, 2]) })
}

/// Unpacks gzip if it is gzip, up to the limit.
fn bytes(path: &Path) -> Result<Vec<u8>> {
    let raw = std::fs::read(path).map_err(Error::at(path))?;
    if !raw.starts_with(&[0x1f, 0x8b]) {
        return Ok(raw);
    }
    let (mut out, most) = (vec![], budget(raw.len() as u64));
    let fault = |why: String| Error::File { path: path.into(), why };
    let read = GzDecoder::new(&raw[..]).take(most as u64 + 1).read_to_end(&mut out);
    read.map_err(|e| fault(format!("not a readable gzip file: {e}")))?;
    if out.len() > most {
        return Err(fault("it unpacks to more than is read from a file of its size".into()));
    }
    Ok(out)
}

/// The IDX header: dimensions and the data after it.
fn idx_parts(data: &[u8]) -> std::result::Result<(Vec<usize>, &[u8]), String> {
    let rank = match data {
        [0, 0, 8, rank, ..] => usize::from(*rank),
        _ => return Err("not an IDX file of bytes".into()),
    };
    let header = 4 + 4 * rank;
    if data.len() < header {
        return Err("the file ends within its header".into());
    }
    let dims: Vec<usize> =
        data[4..header].chunks_exact(4).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]]) as usize).collect();
    let n = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if n != Some(data.len() - header) {
        return Err(format!("it holds {} bytes where {dims:?} are announced", data.len() - header));
    }
    Ok((dims, &data[header..]))
}

fn idx(path: &Path, p: &Preprocess) -> Result<Vec<Tensor>> {
    let data = bytes(path)?;
    let (dims, pixels) = idx_parts(&data).map_err(|why| Error::File { path: path.into(), why })?;
    let scale = p.scale.unwrap_or(PIXEL);
    let mean = p.mean.as_ref().and_then(|m| m.first()).copied().unwrap_or(0.0);
    let std = p.std.as_ref().and_then(|s| s.first()).copied().unwrap_or(1.0);
    Ok(vec![Tensor::new(&dims, pixels.iter().map(|&v| (f32::from(v) * scale - mean) / std).collect())])
}

/// Labels of an IDX label file.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn idx_labels(path: &Path) -> Result<Vec<u8>> {
    let data = bytes(path)?;
    let (_, labels) = idx_parts(&data).map_err(|why| Error::File { path: path.into(), why })?;
    Ok(labels.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_has_the_models_proportions() {
        assert_eq!(middle([100, 100], [28, 28]), [0, 0, 100, 100]);
        assert_eq!(middle([200, 100], [50, 50]), [50, 0, 100, 100]);
        assert_eq!(middle([640, 480], [224, 224]), [80, 0, 480, 480]);
        assert_eq!(middle([1, 4_000_000], [28, 28]), [0, 1_999_999, 1, 1]);
        assert_eq!(middle([4_000_000, 1], [56, 28]), [1_999_999, 0, 2, 1]);
        assert_eq!(middle([7, 1000], [1000, 7]), [0, 499, 7, 1]);
    }

    #[test]
    fn batches_split() {
        let x = Tensor::new(&[2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let got = split(x.clone(), &[1, 3]).unwrap_or_default();
        assert_eq!(got.len(), 2);
        assert_eq!(got[1].data, [4.0, 5.0, 6.0]);
        assert!(split(x, &[1, 4]).is_err());
    }

    #[test]
    fn idx_headers() {
        assert_eq!(idx_parts(&[0, 0, 8, 1, 0, 0, 0, 2, 7, 9]).map(|p| p.1.to_vec()), Ok(vec![7, 9]));
        assert!(idx_parts(&[0, 0, 8, 1, 0, 0, 0, 3, 7, 9]).is_err());
        assert!(idx_parts(&[0, 0, 8, 200]).is_err());
    }
}
