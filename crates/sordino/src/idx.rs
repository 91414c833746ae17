//! MNIST's IDX files.

use crate::arrays::budget;
use crate::{Error, Result};
use flate2::read::GzDecoder;
use sordino_nn::Tensor;
use std::io::Read;
use std::path::Path;

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

/// The bytes of an IDX file as an array.
pub(crate) fn array(path: &Path) -> Result<Tensor> {
    let data = bytes(path)?;
    let (dims, pixels) = idx_parts(&data).map_err(|why| Error::File { path: path.into(), why })?;
    Ok(Tensor::new(&dims, pixels.iter().map(|&v| f32::from(v)).collect()))
}

/// Labels of an IDX label file.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn labels(path: &Path) -> Result<Vec<u8>> {
    let data = bytes(path)?;
    let (_, labels) = idx_parts(&data).map_err(|why| Error::File { path: path.into(), why })?;
    Ok(labels.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idx_headers() {
        assert_eq!(idx_parts(&[0, 0, 8, 1, 0, 0, 0, 2, 7, 9]).map(|p| p.1.to_vec()), Ok(vec![7, 9]));
        assert!(idx_parts(&[0, 0, 8, 1, 0, 0, 0, 3, 7, 9]).is_err());
        assert!(idx_parts(&[0, 0, 8, 200]).is_err());
    }
}
