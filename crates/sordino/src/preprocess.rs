//! How samples reach a model: what is asked for on a command line, in a TOML file beside the model, or by a training that wrote it.

use crate::{Error, Result};
use sha2::{Digest, Sha256};
use sordino_nn::Tensor;
use std::path::Path;

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

/// The words of a column of a table.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Category {
    /// The column's name, or its number from 1.
    pub column: String,
    /// Its words.
    pub words: Vec<String>,
}

impl TryFrom<String> for Category {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        let (column, words) = text.split_once('=').ok_or("expected COLUMN=WORD,WORD,...")?;
        let words: Vec<String> = words.split(',').map(|w| w.trim().to_string()).collect();
        let mut distinct = words.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if words.len() < 2 || distinct.len() < words.len() || words.iter().any(String::is_empty) {
            return Err("expected COLUMN=WORD,WORD,... with two words or more, each once".into());
        }
        Ok(Self { column: column.trim().into(), words })
    }
}

impl From<Category> for String {
    fn from(category: Category) -> Self {
        format!("{}={}", category.column, category.words.join(","))
    }
}

/// How samples reach a model: `(value * scale - mean) / std`, whatever kind of file they come from. What is not given follows
/// from the model's input.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
#[serde(deny_unknown_fields, default)]
pub struct Preprocess {
    /// Height and width of the model's input, where one number says both; pictures are brought to it.
    #[cfg_attr(feature = "clap", arg(long))]
    pub size: Option<u32>,
    /// Pictures: scale the shorter side to this, then cut out the middle; without it the middle is cut out first.
    #[cfg_attr(feature = "clap", arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=65536)))]
    pub resize: Option<u32>,
    /// Pictures: cut this out of the middle, which is the model's size, and scale nothing but what --resize says.
    #[cfg_attr(feature = "clap", arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=65536)))]
    pub crop: Option<u32>,
    /// Order of the model's axes.
    #[cfg_attr(feature = "clap", arg(long, value_enum))]
    pub layout: Option<Layout>,
    /// Order of the model's channels.
    #[cfg_attr(feature = "clap", arg(long, value_enum))]
    pub channels: Option<Channels>,
    /// Subtracted from each channel or column, after scaling.
    #[cfg_attr(feature = "clap", arg(long, value_delimiter = ',', allow_hyphen_values = true))]
    pub mean: Option<Vec<f32>>,
    /// Each channel or column is divided by it, after subtracting the mean.
    #[cfg_attr(feature = "clap", arg(long, value_delimiter = ','))]
    pub std: Option<Vec<f32>>,
    /// Factor of every value; pixels are 0 to 255 (1/255 for IDX, 1 otherwise, if not given).
    #[cfg_attr(feature = "clap", arg(long, allow_negative_numbers = true, value_parser = factor))]
    pub scale: Option<f32>,
    /// A column of a table that holds words, as COLUMN=WORD,WORD,... (by number, from 1, where columns have no names): it becomes a column of
    /// zeros and ones for each word, in this order. Once for each such column.
    #[cfg_attr(feature = "clap", arg(long = "category", value_name = "COLUMN=WORD,WORD,...", value_parser = category))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub categories: Option<Vec<Category>>,
    /// What stands in for missing values of tables; missing words are none of their category.
    #[cfg_attr(feature = "clap", arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = finite))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<f32>,
    /// Names of the columns of tables, in the model's order: columns are found by them.
    #[cfg_attr(feature = "clap", arg(skip))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Names of the classes, in the order of the answers.
    #[cfg_attr(feature = "clap", arg(skip))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
}

impl Preprocess {
    /// True where nothing says how the values of pixels become those of a model's input.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.scale.is_none() && self.mean.is_none() && self.std.is_none() && self.channels.is_none()
    }

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
            resize: self.resize.or(file.resize),
            crop: self.crop.or(file.crop),
            layout: self.layout.or(file.layout),
            channels: self.channels.or(file.channels),
            mean: self.mean.or(file.mean),
            std: self.std.or(file.std),
            scale: self.scale.or(file.scale),
            categories: self.categories.or(file.categories),
            missing: self.missing.or(file.missing),
            columns: self.columns.or(file.columns),
            classes: self.classes.or(file.classes),
        }
    }

    /// SHA-256 of all of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(serde_json::to_vec(self).unwrap_or_default()).into()
    }

    /// The TOML file that tells a trained model how to read samples as its training's were read; `None` when there is
    /// nothing to tell.
    #[must_use]
    pub fn beside(&self) -> Option<String> {
        let text = toml::to_string(self).unwrap_or_default();
        (!text.is_empty()).then_some(text)
    }

    /// The axis of a model's input, batch first, that mean and deviation go along.
    pub(crate) fn channel_axis(&self, dims: &[usize]) -> usize {
        let last = dims.len() - 1;
        match self.layout {
            Some(Layout::Nchw) => 1.min(last),
            Some(Layout::Nhwc) => last,
            None if dims.len() == 4 && self.layout_of(dims) == Layout::Nhwc => last,
            None => 1.min(last),
        }
    }

    /// The layout of a model's input of rank four.
    pub(crate) fn layout_of(&self, dims: &[usize]) -> Layout {
        let guess = if matches!(dims[3], 1 | 3) && !matches!(dims[1], 1 | 3) { Layout::Nhwc } else { Layout::Nchw };
        self.layout.unwrap_or(guess)
    }

    /// Applies scale, mean and deviation to a sample of a model's own shape.
    pub(crate) fn apply(&self, x: &mut Tensor, scale: f32) -> std::result::Result<(), String> {
        let scale = self.scale.unwrap_or(scale);
        if scale == 1.0 && self.mean.is_none() && self.std.is_none() {
            return Ok(());
        }
        let axis = if x.dims.is_empty() { None } else { Some(self.channel_axis(&x.dims)) };
        let channels = axis.map_or(1, |a| x.dims[a]);
        let inner: usize = axis.map_or(1, |a| x.dims[a + 1..].iter().product());
        let list = |given: &Option<Vec<f32>>, name: &str, default: f32| match given.as_deref() {
            None => Ok(vec![default]),
            Some(v) if v.iter().any(|v| !v.is_finite()) => Err(format!("--{name} holds what is no number")),
            Some(v) if v.len() == 1 || v.len() == channels => Ok(v.to_vec()),
            Some(v) => Err(format!("--{name} has {} values for {channels} channels or columns", v.len())),
        };
        let (mean, std) = (list(&self.mean, "mean", 0.0)?, list(&self.std, "std", 1.0)?);
        if std.contains(&0.0) {
            return Err("--std holds a zero".into());
        }
        for (i, v) in x.data.iter_mut().enumerate() {
            let c = i / inner % channels;
            *v = (*v * scale - mean[c % mean.len()]) / std[c % std.len()];
        }
        Ok(())
    }
}

#[cfg(feature = "clap")]
fn category(text: &str) -> std::result::Result<Category, String> {
    text.to_string().try_into()
}

#[cfg(feature = "clap")]
fn finite(text: &str) -> std::result::Result<f32, String> {
    text.parse().ok().filter(|v: &f32| v.is_finite()).ok_or_else(|| "expected a number".into())
}

/// A factor that leaves something of a pixel.
#[cfg(feature = "clap")]
fn factor(text: &str) -> std::result::Result<f32, String> {
    // Also a quotient, as 1/255.
    let number = match text.split_once('/') {
        Some((a, b)) => a.parse::<f32>().and_then(|a| Ok(a / b.parse::<f32>()?)),
        None => text.parse(),
    };
    match number {
        Ok(f) if f32::is_finite(f) && f != 0.0 => Ok(f),
        _ => Err("expected a number other than zero, or a quotient such as 1/255".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_where_the_layout_says() {
        let p = Preprocess { mean: Some(vec![1.0, 2.0, 3.0]), scale: Some(2.0), ..Preprocess::default() };
        let on = |dims: &[usize], layout: Option<Layout>| {
            let mut x = Tensor::new(dims, vec![1.0; dims.iter().product()]);
            Preprocess { layout, ..p.clone() }.apply(&mut x, 1.0).map(|()| x.data)
        };
        assert_eq!(on(&[1, 3], None), Ok(vec![1.0, 0.0, -1.0]));
        assert_eq!(on(&[1, 3, 1, 2], None), Ok(vec![1.0, 1.0, 0.0, 0.0, -1.0, -1.0]));
        assert!(on(&[1, 1, 2, 3], None).is_err());
        assert_eq!(on(&[1, 2, 1, 3], None), Ok(vec![1.0, 0.0, -1.0, 1.0, 0.0, -1.0]));
        assert_eq!(on(&[1, 1, 1, 3], Some(Layout::Nhwc)), Ok(vec![1.0, 0.0, -1.0]));
        assert!(on(&[1, 4], None).is_err_and(|why| why.contains("3 values for 4")));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let p = Preprocess {
            scale: Some(0.25),
            std: Some(vec![0.5, 2.0]),
            channels: Some(Channels::Bgr),
            classes: Some(vec!["cat".into(), "a \"dog\"".into()]),
            categories: Some(vec![Category { column: "c".into(), words: vec!["x".into(), "y".into()] }]),
            missing: Some(-1.0),
            columns: Some(vec!["c".into(), "d e".into()]),
            ..Preprocess::default()
        };
        assert_eq!(p.beside().and_then(|text| toml::from_str(&text).ok()), Some(p));
        assert_eq!(Preprocess::default().beside(), None);
    }
}
