//! NumPy's arrays and archives, within a budget.

use crate::inputs::open;
use crate::{Error, Result};
use sordino_nn::{Tensor, half};
use std::io::{Read, Seek};
use std::path::Path;

/// Elements that a file may unpack to, as floats: a small file must not fill the memory. One that is itself larger may hold as
/// many elements as it has bytes.
pub(crate) fn budget(file: u64) -> usize {
    usize::try_from(file.max(1 << 28)).unwrap_or(usize::MAX)
}

/// What an array, and a sample, take besides their elements, in elements.
const ARRAY: usize = 1024;
pub(crate) const SAMPLE: usize = 32;

/// The arrays of a .npy or .npz file with their names, if they have any.
pub(crate) fn arrays(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let fault = |why: String| Error::File { path: path.into(), why };
    let mut file = open(path)?;
    let size = file.get_ref().metadata().map_err(Error::at(path))?.len();
    let mut left = budget(size);
    let mut magic = [0; 2];
    let packed = file.read_exact(&mut magic).is_ok() && magic == *b"PK";
    file.rewind().map_err(Error::at(path))?;
    if !packed {
        return Ok(vec![(String::new(), npy(&mut file, &mut left).map_err(fault)?)]);
    }
    let mut archive = zip::ZipArchive::new(file).map_err(|e| fault(e.to_string()))?;
    let mut out = vec![];
    for i in 0..archive.len() {
        let mut member = archive.by_index(i).map_err(|e| fault(e.to_string()))?;
        let name = member.name().map_err(|e| fault(e.to_string()))?.trim_end_matches(".npy").to_string();
        let array = npy(&mut member, &mut left).map_err(|why| fault(format!("member {name}: {why}")))?;
        out.push((name, array));
    }
    Ok(out)
}

/// A number of its bytes.
type Decode = fn(&[u8]) -> f32;

/// How many bytes an element has, and how they are read.
fn element(kind: &str) -> Option<(usize, Decode)> {
    fn le(b: &[u8]) -> u64 {
        b.iter().rev().fold(0, |v, &x| v << 8 | u64::from(x))
    }
    Some(match kind {
        "f2" => (2, |b| half(le(b) as u16)),
        "f4" => (4, |b| f32::from_bits(le(b) as u32)),
        "f8" => (8, |b| f64::from_bits(le(b)) as f32),
        "i1" => (1, |b| f32::from(b[0] as i8)),
        "u1" | "b1" => (1, |b| f32::from(b[0])),
        "i2" => (2, |b| f32::from(le(b) as i16)),
        "u2" => (2, |b| f32::from(le(b) as u16)),
        "i4" => (4, |b| le(b) as i32 as f32),
        "u4" => (4, |b| le(b) as u32 as f32),
        "i8" => (8, |b| le(b) as i64 as f32),
        "u8" => (8, |b| le(b) as f32),
        _ => return None,
    })
}

/// NumPy's format, versions 1 to 3: numbers of every kind, byte order and axis order. Takes as many elements from the budget as
/// the array has, before it makes room for any.
fn npy(file: &mut impl Read, left: &mut usize) -> std::result::Result<Tensor, String> {
    let broken = || "not a readable .npy file".to_string();
    let mut start = [0; 8];
    file.read_exact(&mut start).map_err(|_| broken())?;
    let length = match start {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _] => {
            let mut length = [0; 2];
            file.read_exact(&mut length).map_err(|_| broken())?;
            u32::from(u16::from_le_bytes(length))
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _] => {
            let mut length = [0; 4];
            file.read_exact(&mut length).map_err(|_| broken())?;
            u32::from_le_bytes(length)
        }
        _ => return Err(broken()),
    };
    if length > 1 << 16 {
        return Err(broken());
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(|_| broken())?;
    let header = String::from_utf8_lossy(&header);
    let field =
        |name: &str| header.split_once(name).map(|(_, rest)| rest.trim_start_matches([':', ' ', '\''])).unwrap_or("");
    let columns_first = field("'fortran_order").starts_with("True");
    let shape = field("'shape").trim_start_matches('(').split(')').next().unwrap_or("");
    let dims: Vec<usize> = shape
        .split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(|s| s.parse().map_err(|_| broken()))
        .collect::<std::result::Result<_, _>>()?;
    let kind: String = field("'descr").chars().take_while(|&c| c != '\'').collect();
    let name = kind.strip_prefix(['<', '>', '|', '=']).unwrap_or_default();
    let Some((width, value)) = element(name) else {
        return Err(format!("element type {kind} is none of numbers; use floats, integers or booleans"));
    };
    let swapped = kind.starts_with('>');
    if dims.len() > 32 {
        return Err(format!("an array of {} axes is not supported", dims.len()));
    }
    let elements = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
    // However small, each array of an archive takes some.
    *left = left.checked_sub(elements.saturating_add(ARRAY)).ok_or_else(|| {
        format!("with an array of shape {dims:?} the file unpacks to more than is read from one of its size")
    })?;
    let mut values: Vec<f32> = vec![];
    let mut chunk = vec![0; 1 << 16];
    let mut filled = 0;
    loop {
        let n = file.read(&mut chunk[filled..]).map_err(|e| format!("not a readable .npy file: {e}"))?;
        filled += n;
        let whole = filled - filled % width;
        if values.len() + whole / width > elements || (n == 0 && (filled > 0 || values.len() < elements)) {
            let found = if n == 0 { values.len().to_string() } else { format!("more than {}", values.len()) };
            return Err(format!("it holds {found} elements where its shape is {dims:?}"));
        }
        if swapped {
            chunk[..whole].chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        // Room grows with what is there, not with what the header says.
        values.extend(chunk[..whole].chunks_exact(width).map(value));
        chunk.copy_within(whole..filled, 0);
        filled -= whole;
        if n == 0 {
            break;
        }
    }
    if !columns_first || dims.len() < 2 {
        return Ok(Tensor::new(&dims, values));
    }
    // The first axis runs fastest.
    let turned: Vec<usize> = dims.iter().rev().copied().collect();
    let back: Vec<usize> = (0..dims.len()).rev().collect();
    Ok(Tensor::new(&turned, values).permute(&back))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn npy_arrays() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }\n";
        let mut raw = b"\x93NUMPY\x01\x00".to_vec();
        raw.extend((header.len() as u16).to_le_bytes());
        raw.extend(header.bytes());
        raw.extend([1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()));
        let read = |raw: &[u8], mut left: usize| npy(&mut &*raw, &mut left);
        assert_eq!(read(&raw, 2 + ARRAY), Ok(Tensor::new(&[2, 1], vec![1.5, -2.0])));
        assert!(read(&raw, 1 + ARRAY).is_err_and(|why| why.contains("unpacks")));
        assert!(read(&raw[..raw.len() - 1], 2 + ARRAY).is_err());
        assert!(read(&[&raw[..], &[0; 4]].concat(), 2 + ARRAY).is_err());
        assert!(read(&raw[..20], 2 + ARRAY).is_err());
    }

    #[test]
    fn every_kind_byte_order_and_axis_order() {
        let file = |kind: &str, columns_first: &str, shape: &str, body: &[u8]| {
            let header = format!("{{'descr': '{kind}', 'fortran_order': {columns_first}, 'shape': {shape}, }}\n");
            let mut raw = b"\x93NUMPY\x01\x00".to_vec();
            raw.extend((header.len() as u16).to_le_bytes());
            raw.extend(header.bytes());
            raw.extend(body);
            npy(&mut &*raw, &mut 100_000)
        };
        let one = |kind: &str, body: &[u8]| file(kind, "False", "(1,)", body).map(|t| t.data[0]);
        assert_eq!(one("<f2", &0x3e00u16.to_le_bytes()), Ok(1.5));
        assert_eq!(one(">f2", &0xc000u16.to_be_bytes()), Ok(-2.0));
        assert_eq!(one(">f4", &1.25f32.to_be_bytes()), Ok(1.25));
        assert_eq!(one(">f8", &(-3.5f64).to_be_bytes()), Ok(-3.5));
        assert_eq!(one("<i2", &(-300i16).to_le_bytes()), Ok(-300.0));
        assert_eq!(one(">u2", &300u16.to_be_bytes()), Ok(300.0));
        assert_eq!(one("<u4", &70_000u32.to_le_bytes()), Ok(70_000.0));
        assert_eq!(one(">i8", &(-5i64).to_be_bytes()), Ok(-5.0));
        assert_eq!(one("<u8", &7u64.to_le_bytes()), Ok(7.0));
        assert_eq!(one("|b1", &[1]), Ok(1.0));
        assert!(one("<U4", &[0; 16]).is_err() && one("<c8", &[0; 8]).is_err() && one("|O", &[0; 8]).is_err());
        let turned = file("|u1", "True", "(2, 3)", &[1, 4, 2, 5, 3, 6]);
        assert_eq!(turned, Ok(Tensor::new(&[2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])));
    }
}
