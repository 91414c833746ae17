//! The losses that the first data owner hears, also on its disk, so that a resumed training shows its whole curve.

use super::progress::{WINDOW, tell};
use sordino::model::write_own;
use sordino::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Name of the file beside the checkpoints: a line `iteration,loss` for each.
const FILE: &str = "losses.csv";

/// Losses by iteration, counted from one; a training that was killed may lack some.
#[derive(Default)]
pub(crate) struct Losses {
    pub(super) all: Vec<(usize, f32)>,
    file: Option<File>,
}

/// The losses in a folder.
fn found(folder: &Path) -> Result<Vec<(usize, f32)>> {
    let path = folder.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::at(&path)(e)),
    };
    // A line without its end was cut short, whatever it reads.
    let entry = |line: &str| {
        let (i, l) = line.strip_suffix('\n')?.split_once(',')?;
        Some((i.parse().ok()?, l.parse().ok()?))
    };
    Ok(text.split_inclusive('\n').filter_map(entry).collect())
}

impl Losses {
    /// The last iteration whose loss a folder holds; a killed training may have a checkpoint after it.
    pub(super) fn last(folder: &Path) -> Result<Option<usize>> {
        Ok(found(folder)?.iter().map(|(i, _)| *i).max())
    }

    /// What a folder holds of the iterations that are done; further ones are appended.
    pub(super) fn kept(folder: &Path, done: usize) -> Result<Self> {
        let path = folder.join(FILE);
        let mut all = if done > 0 { found(folder)? } else { vec![] };
        all.retain(|(i, _)| (1..=done).contains(i));
        let lacks = done - all.len().min(done);
        if lacks > 0 {
            let path = path.display();
            tell(&format!("{path} lacks the losses of {lacks} of the {done} iterations that are done"));
        }
        let lines: String = all.iter().map(|(i, l)| format!("{i},{l}\n")).collect();
        write_own(&path, format!("iteration,loss\n{lines}").as_bytes())?;
        let file = File::options().append(true).open(&path).map_err(Error::at(&path))?;
        Ok(Self { all, file: Some(file) })
    }

    pub(super) fn push(&mut self, iteration: usize, loss: f32) {
        self.all.push((iteration, loss));
        let written = self.file.as_mut().map_or(Ok(()), |f| f.write_all(format!("{iteration},{loss}\n").as_bytes()));
        if let Err(e) = written {
            // The training matters more than its curve.
            tell(&format!("{FILE} cannot be written ({e}); losses are not kept any more"));
            self.file = None;
        }
    }

    /// Mean of the last ones.
    pub(super) fn recent(&self) -> Option<f64> {
        let last = &self.all[self.all.len().saturating_sub(WINDOW)..];
        (!last.is_empty()).then(|| last.iter().map(|(_, l)| f64::from(*l)).sum::<f64>() / last.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_undone_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut losses = Losses::kept(dir.path(), 0).unwrap();
        for (i, loss) in [(1, 2.5), (2, 2.0), (3, 1.0)] {
            losses.push(i, loss);
        }
        drop(losses);
        let path = dir.path().join(FILE);
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "2,0.").unwrap();
        let mut losses = Losses::kept(dir.path(), 2).unwrap();
        losses.push(3, 1.5);
        assert_eq!(losses.all, [(1, 2.5), (2, 2.0), (3, 1.5)]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "iteration,loss\n1,2.5\n2,2\n3,1.5\n");
        assert_eq!(losses.recent(), Some(2.0));
        assert!(Losses::kept(dir.path(), 0).unwrap().all.is_empty());
    }
}
