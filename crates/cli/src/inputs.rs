//! Arguments that say what a model leaves open, and what it is given.

use super::positive;
use clap::Args;
use sordino::inputs::{Preprocess, Take};
use sordino::model::{self, Typed};
use sordino::samples::Sample;
use sordino::{Error, Result};
use sordino_nn::{BatchAxis, Graph};
use std::path::PathBuf;

/// What a model leaves open.
#[derive(Args, Clone)]
pub(crate) struct Open {
    /// The size of a symbolic dimension of the model's inputs, such as H=224.
    #[arg(long = "dim", value_name = "NAME=SIZE", value_parser = dimension)]
    dims: Vec<(String, usize)>,
    /// Which axis of the inputs is the batch, or `none` [default: what the graph tells].
    #[arg(long, value_name = "AXIS", value_parser = batch_axis)]
    batch_axis: Option<BatchAxis>,
}

fn dimension(text: &str) -> std::result::Result<(String, usize), String> {
    let (name, size) = text.rsplit_once('=').ok_or("expected NAME=SIZE, such as H=224")?;
    match size.parse() {
        Ok(size) if (1..1 << 24).contains(&size) => Ok((name.into(), size)),
        _ => Err(format!("{size} is no size")),
    }
}

fn batch_axis(text: &str) -> std::result::Result<BatchAxis, String> {
    match text {
        "none" => Ok(BatchAxis::None),
        _ => text.parse().ok().filter(|a| *a < 32).map(BatchAxis::At).ok_or("expected an axis, or none".into()),
    }
}

impl Open {
    /// Reads a model and says what it leaves open.
    pub(crate) fn read(&self, path: &std::path::Path) -> Result<Graph> {
        let mut graph = model::read(path)?;
        self.apply(&mut graph, path)?;
        Ok(graph)
    }

    /// Says what a graph leaves open.
    pub(crate) fn apply(&self, graph: &mut Graph, path: &std::path::Path) -> Result<()> {
        for (name, size) in &self.dims {
            if !graph.set(name, *size) {
                let why = format!("no input has a symbolic dimension {name}, as --dim says");
                return Err(Error::File { path: path.into(), why });
            }
        }
        graph.batch_axis = self.batch_axis.unwrap_or_default();
        Ok(())
    }
}

/// Names the file in what is wrong with its model.
pub(crate) fn of_model(path: &std::path::Path, e: Error) -> Error {
    match e {
        Error::Model(e @ (sordino_nn::Error::Input { .. } | sordino_nn::Error::Protocol(_))) => Error::Model(e),
        Error::Model(e) => Error::File { path: path.into(), why: e.to_string() },
        e => e,
    }
}

/// Inputs and how they become tensors.
#[derive(Args, Clone)]
pub(crate) struct Inputs {
    /// Input files: pictures (PNG, JPEG, WebP, BMP, TIFF, GIF), .npy, .npz, .csv, or MNIST IDX (also gzipped). A file may hold many
    /// samples. Of a model with several inputs, NAME=FILE for each, or one .npz with arrays of their names.
    #[arg(long, num_args = 1.., required = true)]
    input: Vec<PathBuf>,
    /// Use at most this many samples.
    #[arg(long, value_parser = positive)]
    limit: Option<usize>,
    /// Skip this many samples first.
    #[arg(long, default_value_t = 0)]
    skip: usize,
    #[command(flatten)]
    pub(crate) preprocess: Preprocess,
}

impl Inputs {
    /// Refuses files that are not there, before anybody is troubled for them.
    pub(crate) fn are_there(&self) -> Result<()> {
        let file = |p: &PathBuf| match p.to_str().and_then(|t| t.split_once('=')) {
            Some((_, rest)) if !p.exists() => PathBuf::from(rest),
            _ => p.clone(),
        };
        match self.input.iter().map(file).find(|p| !p.exists()) {
            None => Ok(()),
            Some(path) => Err(Error::File { path, why: "no such file".into() }),
        }
    }

    /// Samples for a model's inputs, which have these names.
    pub(crate) fn read(&self, takes: &[(String, Take)], preprocess: &Preprocess) -> Result<Vec<Sample>> {
        let mut samples: Vec<Sample> = match takes {
            [(name, take)] => {
                let prefix = format!("{name}=");
                let bare = |p: &PathBuf| match p.to_str().and_then(|t| t.strip_prefix(&prefix)) {
                    Some(rest) if !p.exists() => PathBuf::from(rest),
                    _ => p.clone(),
                };
                let files: Vec<PathBuf> = self.input.iter().map(bare).collect();
                sordino::inputs::read(&files, take, preprocess)?.into_iter().map(|x| vec![x]).collect()
            }
            many => self.several(many, preprocess)?,
        };
        if samples.is_empty() {
            return Err(Error::Usage("the input files hold no samples".into()));
        }
        if self.skip >= samples.len() {
            let n = samples.len();
            return Err(Error::Usage(format!(
                "--skip {} leaves nothing of the {n} samples in the input files",
                self.skip
            )));
        }
        samples.drain(..self.skip);
        samples.truncate(self.limit.unwrap_or(usize::MAX));
        Ok(samples)
    }

    /// Gives dimensions that a model of one input leaves open the sizes of the first array.
    fn bind(&self, graph: &mut Graph) -> Result<()> {
        if graph.inputs.len() != 1 {
            return Ok(());
        }
        let open = sordino_nn::open_dimensions(graph);
        if !open.is_empty()
            && let Some(dims) = self.of_rank(graph)?
        {
            for (symbol, _, axis) in &open {
                graph.set(symbol, dims[*axis]);
            }
        }
        Ok(())
    }

    /// Types a model for one sample. Where samples meet, a batch that may vary is a size like others: all that an array holds is one
    /// input.
    pub(crate) fn typed(&self, graph: &mut Graph) -> Result<Typed> {
        self.bind(graph)?;
        let single = model::typed(graph, 1)?;
        if single.reference.batch.is_none()
            && graph.inputs.len() == 1
            && let Some((symbol, axis)) = sordino_nn::batch_dimension(graph)
            && let Some(dims) = self.of_rank(graph)?
        {
            graph.set(&symbol, dims[axis]);
            return model::typed(graph, 1);
        }
        Ok(single)
    }

    /// The shape of the first array, if it has as many axes as the model's first input.
    fn of_rank(&self, graph: &Graph) -> Result<Option<Vec<usize>>> {
        Ok(sordino::inputs::shape(&self.input[0])?.filter(|dims| dims.len() == graph.inputs[0].1.len()))
    }

    /// Samples of several inputs: one from each.
    fn several(&self, takes: &[(String, Take)], preprocess: &Preprocess) -> Result<Vec<Sample>> {
        let names = || takes.iter().map(|t| t.0.as_str()).collect::<Vec<_>>().join(", ");
        if let [one] = &self.input[..]
            && one.extension().is_some_and(|e| e == "npz")
        {
            return sordino::inputs::by_name(one, takes, preprocess);
        }
        let mut files: Vec<Vec<PathBuf>> = vec![vec![]; takes.len()];
        for path in &self.input {
            let parts = path.to_str().and_then(|t| t.split_once('='));
            let of = parts.and_then(|(name, file)| Some((takes.iter().position(|t| t.0 == name)?, file)));
            let Some((at, file)) = of else {
                return Err(Error::Usage(format!(
                    "the model has {} inputs ({}); give a file for each as --input NAME=FILE, or one .npz with arrays of these names, not {}",
                    takes.len(),
                    names(),
                    path.display()
                )));
            };
            files[at].push(file.into());
        }
        if let Some(at) = files.iter().position(Vec::is_empty) {
            return Err(Error::Usage(format!(
                "no file is given for input {}; the model's inputs are {}",
                takes[at].0,
                names()
            )));
        }
        let mut columns = vec![];
        for (files, (_, take)) in files.iter().zip(takes) {
            columns.push(sordino::inputs::read(files, take, preprocess)?);
        }
        sordino::inputs::side_by_side(columns, takes)
    }

    /// True when pictures are read and nothing says how.
    pub(crate) fn plain_pictures(&self, model: &std::path::Path) -> bool {
        let Ok(p) = self.preprocess.clone().or_beside(model) else { return false };
        p.is_plain() && self.input.iter().any(|path| sordino::inputs::is_picture(path))
    }
}

/// Names of a network's inputs, and what one sample of each is like.
pub(crate) fn takes(net: &sordino_nn::Network) -> Vec<(String, Take)> {
    net.inputs.iter().map(|&id| net.names[id].clone()).zip(Take::all(net)).collect()
}

/// The model's one input.
pub(crate) fn one_input(net: &sordino_nn::Network) -> Result<Take> {
    match Take::all(net).pop() {
        Some(take) if net.inputs.len() == 1 => Ok(take),
        _ => Err(Error::Usage(format!("the model has {} inputs; models with one are trained here", net.inputs.len()))),
    }
}
