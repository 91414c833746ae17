//! From a model file and sample inputs to a compiled program.

use crate::{Error, Result};
use sordino_nn::onnx::{self, External};
use sordino_nn::program::{Program, Secrets};
use sordino_nn::{Graph, Network, Options, Ranges, Tensor, compile, for_inference, import};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Component, Path};

/// Largest model file read.
const MAX_MODEL_BYTES: u64 = 4 << 30;

/// Reads an ONNX file, and the files beside it that hold its larger tensors, if there are any.
///
/// # Errors
/// [`Error::File`] when it cannot be read or is no model.
pub fn read(path: &Path) -> Result<Graph> {
    let size = std::fs::metadata(path).map_err(Error::at(path))?.len();
    if size > MAX_MODEL_BYTES {
        return Err(Error::File { path: path.into(), why: format!("{size} bytes is more than the limit of 4 GiB") });
    }
    let bytes = std::fs::read(path).map_err(Error::at(path))?;
    let mut left = MAX_MODEL_BYTES;
    onnx::read_with(bytes.into(), &mut |external| beside(path, external, &mut left))
        .map_err(|e| Error::File { path: path.into(), why: e.to_string() })
}

/// The bytes of a tensor from a file in the model's folder or below, of which so many bytes may still be read.
fn beside(model: &Path, external: &External<'_>, left: &mut u64) -> std::result::Result<Vec<u8>, String> {
    let External { location, offset, length } = *external;
    // A model from elsewhere must not read this machine's other files.
    if Path::new(location).components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("it is in {location}, which is outside the model's folder"));
    }
    *left = left.checked_sub(length).ok_or("the model's tensors are more than 4 GiB")?;
    let folder = folder_of(model);
    let path = folder.join(location);
    let read = || {
        // Links must not lead out of the folder either, unless the model itself is one that leads there.
        let (real, home) = (path.canonicalize()?, model.canonicalize()?);
        let within =
            [folder.canonicalize()?, home.parent().unwrap_or(&home).into()].iter().any(|f| real.starts_with(f));
        if !within || !real.is_file() {
            return Err(std::io::Error::other("no regular file in the model's folder"));
        }
        let mut file = std::fs::File::open(&real)?;
        file.seek(SeekFrom::Start(offset))?;
        // Grows with what is there, not with what the model says.
        let mut bytes = vec![];
        file.take(length).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => format!("its file {} is missing; models of several files stay together", path.display()),
        _ => format!("its file {}: {e}", path.display()),
    })?;
    if bytes.len() as u64 != length {
        let held = bytes.len();
        return Err(format!("its file {} holds {held} bytes for it where {length} are needed", path.display()));
    }
    Ok(bytes)
}

/// A model typed for a batch, with its source of truth for checks.
pub struct Typed {
    /// As exported, batch norms and all.
    pub reference: Network,
    /// After the passes.
    pub passed: Network,
}

/// Types a graph.
///
/// # Errors
/// When an operator is not supported or shapes do not fit.
pub fn typed(graph: &Graph, batch: usize) -> Result<Typed> {
    let reference = import(graph, batch)?;
    let passed = for_inference(&reference);
    Ok(Typed { reference, passed })
}

/// Ranges of a model over samples of batch one.
///
/// # Errors
/// When a sample does not fit the model.
pub fn calibrate(graph: &Graph, samples: &[Vec<Tensor>]) -> Result<Ranges> {
    Ok(Ranges::calibrate(&typed(graph, 1)?.passed, samples)?)
}

/// Compiles for a batch.
///
/// # Errors
/// When values or weights cannot be represented.
pub fn compiled(typed: &Typed, ranges: &Ranges, options: &Options) -> Result<(Program, Secrets)> {
    Ok(compile(&typed.passed, ranges, options)?)
}

/// A stored calibration: ranges of every value, and the model they belong to.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Calibration {
    /// The file of the model it is for.
    pub model: String,
    /// SHA-256 of that model, in hexadecimal digits.
    pub model_hash: String,
    /// How many samples it rests on.
    pub samples: usize,
    /// Largest magnitudes.
    pub ranges: Ranges,
    /// Widths chosen under an error budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub widths: Option<crate::widths::Chosen>,
}

impl Calibration {
    /// Reads a calibration file.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read or is none.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::at(path))?;
        serde_json::from_str(&text).map_err(|e| {
            let why = format!("not a calibration of this version ({e}); write it again with `sordino calibrate`");
            Error::File { path: path.into(), why }
        })
    }

    /// Reads the calibration of a model.
    ///
    /// # Errors
    /// [`Error::File`], also when it is of another model, or of the same file before it was changed.
    pub fn of(path: &Path, model: &Path, graph: &Graph) -> Result<Self> {
        let calibration = Self::read(path)?;
        if calibration.model_hash == hexadecimal(&graph.hash()) {
            return Ok(calibration);
        }
        let (other, this) = (&calibration.model, model.file_name().unwrap_or_default().to_string_lossy());
        let changed = if *other == this { ", which has been changed since" } else { "" };
        let why =
            format!("it is a calibration of {other}{changed}, not of this {this}; calibrate again, or move it away");
        Err(Error::File { path: path.into(), why })
    }

    /// A calibration of a model.
    #[must_use]
    pub fn new(model: &Path, graph: &Graph, samples: usize, ranges: Ranges) -> Self {
        let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { model: name, model_hash: hexadecimal(&graph.hash()), samples, ranges, widths: None }
    }

    /// Writes it beside, then renames: never half a file.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Usage(e.to_string()))?;
        write_whole(path, text.as_bytes())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The folder that a file is or would be in.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Checks that a file can be put there, before work is done for it. Returns its folder.
///
/// # Errors
/// [`Error::File`].
pub fn writable(path: &Path) -> Result<&Path> {
    let fault = |why: &str| Error::File { path: path.into(), why: why.into() };
    if path.exists() && !path.is_file() {
        return Err(fault("not a regular file; it would be replaced"));
    }
    let folder = folder_of(path);
    if !folder.is_dir() {
        return Err(fault("its folder does not exist"));
    }
    Ok(folder)
}

/// Writes a file by writing a temporary one in the same folder and renaming it.
///
/// # Errors
/// [`Error::File`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, bytes, 0o644, true)
}

/// The same for a file that nobody else may read.
///
/// # Errors
/// [`Error::File`].
pub fn write_own(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, bytes, 0o600, true)
}

/// The same for a file that must not be there yet.
///
/// # Errors
/// [`Error::File`], also when it is there.
pub fn create_own(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, bytes, 0o600, false)
}

#[cfg_attr(not(unix), expect(unused_variables, reason = "only Unix has modes"))]
fn write_with(path: &Path, bytes: &[u8], mode: u32, replace: bool) -> Result<()> {
    let folder = writable(path)?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    let mut file = builder.tempfile_in(folder).map_err(Error::at(path))?;
    std::io::Write::write_all(&mut file, bytes).and_then(|()| file.as_file().sync_all()).map_err(Error::at(path))?;
    let placed = if replace { file.persist(path) } else { file.persist_noclobber(path) };
    placed.map_err(|e| Error::at(path)(e.error))?;
    Ok(())
}
