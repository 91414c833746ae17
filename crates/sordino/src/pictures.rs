//! Pictures: from a file to pixels of the model's size.

use crate::arrays::budget;
use crate::inputs::{PIXEL, open};
use crate::preprocess::{Channels, Layout, Preprocess};
use crate::{Error, Result};
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageReader};
use sordino_nn::Tensor;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Endings of the kinds of pictures that are read.
pub(crate) const KINDS: [&str; 8] = [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"];

/// Most pixels of a picture that is scaled before it is cut.
const MOST_PIXELS: u64 = 1 << 26;

/// True for a file that is read as a picture.
#[must_use]
pub fn is_picture(path: &Path) -> bool {
    let name = path.to_string_lossy().to_lowercase();
    KINDS.iter().any(|kind| name.ends_with(kind))
}

/// A picture as one sample of the model's input.
pub(crate) fn read(path: &Path, dims: &[usize], p: &Preprocess) -> Result<Tensor> {
    let fault = |why: String| Error::File { path: path.into(), why };
    if dims.len() != 4 || dims[0] != 1 {
        return Err(fault(format!("the model takes {dims:?}, not pictures; give a .npy file")));
    }
    let layout = p.layout_of(dims);
    let [c, h, w] = match layout {
        Layout::Nchw => [dims[1], dims[2], dims[3]],
        Layout::Nhwc => [dims[3], dims[1], dims[2]],
    };
    for (name, size) in [("size", p.size), ("crop", p.crop)] {
        if let Some(size) = size
            && (size as usize, size as usize) != (h, w)
        {
            return Err(fault(format!("a {name} of {size} was asked for where the model takes {h} by {w}")));
        }
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
        fault(format!("not a readable picture ({e}); inputs are PNG, JPEG, WebP, BMP, TIFF, GIF, .npy, .npz, .csv or MNIST IDX files"))
    })?;
    let picture = fitted(picture, [w as u32, h as u32], p.resize, p.crop.is_some()).map_err(fault)?;
    let pixels = pixels(&picture, channels);
    let nhwc = Tensor::new(&[1, h, w, c], pixels);
    let mut sample = if layout == Layout::Nhwc { nhwc } else { nhwc.permute(&[0, 3, 1, 2]) };
    // The layout of a picture is known; mean and deviation go along its channels.
    Preprocess { layout: Some(layout), ..p.clone() }.apply(&mut sample, 1.0).map_err(fault)?;
    Ok(sample)
}

/// Brings a picture to the model's size.
fn fitted(
    picture: DynamicImage,
    [w, h]: [u32; 2],
    resize: Option<u32>,
    crop: bool,
) -> std::result::Result<DynamicImage, String> {
    let sizes = [picture.width(), picture.height()];
    if let Some(shorter) = resize {
        if shorter < w.min(h) || shorter < w.max(h) && w != h {
            return Err(format!("--resize {shorter} leaves less than the {h} by {w} that the model takes"));
        }
        let least = u64::from(sizes[0].min(sizes[1]).max(1));
        // The longer side is rounded down, as torchvision does.
        let [wide, high] = sizes.map(|s| u64::from(s) * u64::from(shorter) / least);
        if wide * high > MOST_PIXELS {
            return Err(format!("{} by {} pixels are too long a strip to be scaled", sizes[1], sizes[0]));
        }
        let picture = picture.resize_exact(wide as u32, high as u32, FilterType::Triangle);
        return Ok(picture.crop_imm(offset(wide, w), offset(high, h), w, h));
    }
    if crop {
        let [wide, high] = sizes.map(u64::from);
        if wide < u64::from(w) || high < u64::from(h) {
            return Err(format!(
                "{high} by {wide} pixels are less than the {h} by {w} to be cut out; --resize scales it first"
            ));
        }
        return Ok(picture.crop_imm(offset(wide, w), offset(high, h), w, h));
    }
    if sizes == [w, h] {
        return Ok(picture);
    }
    // Cut before it is scaled: a long strip would be scaled in its whole length.
    let [left, top, width, height] = middle(sizes, [w, h]);
    Ok(picture.crop_imm(left, top, width, height).resize_exact(w, h, FilterType::Triangle))
}

/// Where the middle begins; halves go to the even neighbour.
fn offset(whole: u64, part: u32) -> u32 {
    let rest = whole - u64::from(part);
    (rest / 2 + u64::from(rest % 2 == 1 && rest / 2 % 2 == 1)) as u32
}

/// Pixels from 0 to 255, channels last; pictures of sixteen bits keep them.
fn pixels(picture: &DynamicImage, channels: Channels) -> Vec<f32> {
    use image::ColorType::{L16, La16, Rgb16, Rgb32F, Rgba16, Rgba32F};
    let deep = matches!(picture.color(), L16 | La16 | Rgb16 | Rgba16 | Rgb32F | Rgba32F);
    let plain = !picture.color().has_color();
    let order = |p: [f32; 3]| if channels == Channels::Bgr { [p[2], p[1], p[0]] } else { p };
    if deep {
        let all = picture.to_rgb16();
        let level = |v: u16| f32::from(v) / 257.0;
        let of = |p: &image::Rgb<u16>| p.0.map(level);
        return match channels {
            Channels::Gray if plain => all.pixels().map(|p| level(p[0])).collect(),
            Channels::Gray => all.pixels().map(|p| luma(of(p))).collect(),
            _ => all.pixels().flat_map(|p| order(of(p))).collect(),
        };
    }
    let all = picture.to_rgb8();
    match channels {
        Channels::Gray if plain => all.pixels().map(|p| f32::from(p[0])).collect(),
        // Rounded as Pillow does.
        Channels::Gray => all.pixels().map(|p| luma8(p.0)).collect(),
        _ => all.pixels().flat_map(|p| order(p.0.map(f32::from))).collect(),
    }
}

/// Grey by Recommendation ITU-R BT.601.
fn luma([r, g, b]: [f32; 3]) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

fn luma8(p: [u8; 3]) -> f32 {
    let [r, g, b] = p.map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as f32
}

/// A picture's width and height.
fn sizes(file: BufReader<File>) -> image::ImageResult<(u32, u32)> {
    ImageReader::new(file).with_guessed_format()?.into_dimensions()
}

/// Reads a picture, upright, with a limit on the memory it takes.
fn decoded(file: BufReader<File>) -> image::ImageResult<DynamicImage> {
    let mut reader = ImageReader::new(file).with_guessed_format()?;
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(512 << 20);
    // A header alone must not make room.
    (limits.max_image_width, limits.max_image_height) = (Some(1 << 24), Some(1 << 24));
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(picture)
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
pub(crate) fn rows(path: &Path, dims: &[usize], p: &Preprocess) -> Result<Vec<Tensor>> {
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
    let channels = if c == 1 { Channels::Gray } else { Channels::Rgb };
    let all = pixels(&picture, p.channels.filter(|_| c == 3).unwrap_or(channels));
    let sample = |one: &[f32]| {
        let mut x = Tensor::new(&[1, h, w, c], one.to_vec()).permute(&[0, 3, 1, 2]);
        Preprocess { layout: Some(Layout::Nchw), ..p.clone() }.apply(&mut x, PIXEL).map_err(fault)?;
        Ok(x)
    };
    all.chunks_exact(h * w * c).map(sample).collect()
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
    fn pictures_are_scaled_then_cut() {
        let column = |x: u32| image::Rgb([x as u8, 0, 0]);
        let picture = DynamicImage::from(image::RgbImage::from_fn(80, 40, |x, _| column(x)));
        let cut = fitted(picture.clone(), [20, 20], Some(40), false).map(|p| p.to_rgb8());
        assert!(cut.is_ok_and(|p| (p.width(), p.height(), p[(0, 0)]) == (20, 20, column(30))));
        assert!(fitted(picture.clone(), [20, 20], Some(10), false).is_err());
        let middle = fitted(picture.clone(), [20, 20], None, true).map(|p| p.to_rgb8());
        assert!(middle.is_ok_and(|p| p[(0, 0)] == column(30) && p[(19, 0)] == column(49)));
        assert!(fitted(picture.clone(), [50, 50], None, true).is_err());
        let long = DynamicImage::from(image::GrayImage::new(1, 100_000));
        assert!(fitted(long, [20, 20], Some(256), false).is_err());
        assert!(fitted(picture, [20, 20], None, false).is_ok_and(|p| (p.width(), p.height()) == (20, 20)));
    }

    #[test]
    fn grey_is_what_others_make_of_it() {
        assert_eq!([[255, 0, 0], [0, 255, 0], [0, 0, 255]].map(luma8), [76.0, 150.0, 29.0]);
        let deep = DynamicImage::from(image::ImageBuffer::<image::Luma<u16>, _>::from_pixel(1, 1, image::Luma([1000])));
        assert_eq!(pixels(&deep, Channels::Gray), [1000.0 / 257.0]);
    }
}
