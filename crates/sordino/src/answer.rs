//! A trained model that stays shared: what servers need to answer with the states of a training's checkpoints. All of it
//! is public.

use crate::checkpoint::{self, Checkpoints, Training};
use crate::inputs::Preprocess;
use crate::model::write_whole;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sordino_nn::program::Program;
use std::path::{Path, PathBuf};

/// The program that answers, and the training whose states it answers with.
#[derive(Serialize, Deserialize)]
pub struct Answer {
    /// Answers one sample.
    pub program: Program,
    /// What the states belong to.
    pub training: Training,
    /// How pictures reach the model.
    pub preprocess: Preprocess,
    /// Iterations of the whole training.
    pub iterations: usize,
}

fn file(folder: &Path) -> PathBuf {
    folder.join("model.json")
}

impl Answer {
    /// Writes it beside the checkpoints.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::at(folder))?;
        let path = file(folder);
        let text = serde_json::to_vec(self).map_err(|e| Error::File { path: path.clone(), why: e.to_string() })?;
        write_whole(&path, &text)
    }

    /// Reads it, with the last iteration that all three servers have shares of.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn read(folder: &Path) -> Result<(Self, Checkpoints)> {
        let path = file(folder);
        if !path.exists() {
            return Err(Error::File {
                path: folder.into(),
                why: "it holds no trained model; `sordino train --checkpoint` keeps one".into(),
            });
        }
        crate::private::folder(folder, false)?;
        let text = std::fs::read(&path).map_err(Error::at(&path))?;
        let answer: Self = serde_json::from_slice(&text)
            .map_err(|e| Error::File { path: path.clone(), why: format!("not a trained model: {e}") })?;
        if answer.program.hash() != answer.training.answer || answer.preprocess.hash() != answer.training.preprocess {
            return Err(Error::File { path, why: "it has been changed since the training wrote it".into() });
        }
        let why = "no iteration has sound checkpoints of all three servers";
        let none = || Error::File { path: folder.into(), why: why.into() };
        let from = Some(checkpoint::latest(folder, usize::MAX)?.ok_or_else(none)?);
        let checkpoints = Checkpoints { folder: folder.into(), every: None, from, training: answer.training };
        checkpoints.belongs()?;
        Ok((answer, checkpoints))
    }
}
