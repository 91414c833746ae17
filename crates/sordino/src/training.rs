//! Training sets, their public order, the same training in floats, and the trained model.

use crate::{Error, Result};
use sha2::{Digest, Sha256};
use sordino_nn::graph::{Attribute, Graph};
use sordino_nn::training::TrainingStep;
use sordino_nn::{Constant, Ranges, Tensor, float};
use sordino_ring::PrgKey;

/// Samples of batch one with their classes.
pub struct Set {
    /// Samples.
    pub samples: Vec<Tensor>,
    /// Classes.
    pub labels: Vec<u8>,
}

impl Set {
    /// A set whose sizes and labels fit.
    ///
    /// # Errors
    /// [`Error::Usage`] for too few rows, unequal numbers, or labels out of range.
    pub fn new(samples: Vec<Tensor>, labels: Vec<u8>, classes: usize) -> Result<Self> {
        if samples.len() != labels.len() {
            let (n, m) = (samples.len(), labels.len());
            return Err(Error::Usage(format!("{n} samples and {m} labels; every sample needs one label")));
        }
        if let Some((i, label)) = labels.iter().enumerate().find(|(_, l)| usize::from(**l) >= classes) {
            return Err(Error::Usage(format!("label {i} is {label}, but the model has {classes} classes")));
        }
        Ok(Self { samples, labels })
    }

    /// Samples and one-hot labels of a batch.
    #[must_use]
    pub fn batch(&self, rows: &[usize], classes: usize) -> [Tensor; 2] {
        let mut dims = self.samples[rows[0]].dims.clone();
        dims[0] = rows.len();
        let data = rows.iter().flat_map(|&r| self.samples[r].data.iter().copied()).collect();
        let mut labels = Tensor::new(&[rows.len(), classes], vec![0.0; rows.len() * classes]);
        rows.iter().enumerate().for_each(|(i, &r)| labels.data[i * classes + usize::from(self.labels[r])] = 1.0);
        [Tensor::new(&dims, data), labels]
    }
}

/// A hash of a set and of the seed of its order: what a resumed training must have in common with the first.
#[must_use]
pub fn fingerprint(set: &Set, seed: u64) -> [u8; 32] {
    let mut hash = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(&set.labels);
    for v in set.samples.iter().flat_map(|s| &s.data) {
        hash.update(v.to_le_bytes());
    }
    hash.finalize().into()
}

/// The rows of every batch: each epoch is a permutation drawn from the seed, cut into whole batches. Public.
///
/// # Errors
/// [`Error::Usage`] when there are fewer rows than a batch has.
pub fn order(rows: usize, batch: usize, epochs: usize, seed: u64) -> Result<Vec<Vec<usize>>> {
    if rows < batch {
        return Err(Error::Usage(format!("{rows} samples are fewer than the batch of {batch}")));
    }
    let mut key = [0; 16];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let numbers: Vec<u64> = PrgKey::new(key).words(rows * epochs);
    let mut batches = vec![];
    for numbers in numbers.chunks_exact(rows) {
        let mut rows: Vec<usize> = (0..rows).collect();
        // Fisher and Yates; the bias of the remainder is below 2^-40.
        for (i, n) in numbers.iter().enumerate().skip(1) {
            rows.swap(i, (n % (i as u64 + 1)) as usize);
        }
        batches.extend(rows.chunks_exact(batch).map(<[usize]>::to_vec));
    }
    Ok(batches)
}

/// The same training in floats.
pub struct Floats<'a> {
    step: &'a TrainingStep,
    /// Weights and velocities.
    pub states: Vec<Tensor>,
}

impl<'a> Floats<'a> {
    /// From the step's start.
    #[must_use]
    pub fn new(step: &'a TrainingStep) -> Self {
        Self { step, states: step.start.clone() }
    }

    /// One iteration; returns the loss if the step tells it.
    ///
    /// # Errors
    /// When the batch does not fit, or a value is no longer finite.
    pub fn run(&mut self, batch: [Tensor; 2], ranges: Option<&mut Ranges>) -> Result<Option<f32>> {
        let inputs: Vec<Tensor> = batch.into_iter().chain(std::mem::take(&mut self.states)).collect();
        if let Some(ranges) = ranges {
            ranges.merge(&Ranges::calibrate(&self.step.net, std::slice::from_ref(&inputs))?);
        }
        let mut outputs = float::evaluate(&self.step.net, &inputs, |_, _| ())?;
        let loss = (outputs.len() > self.step.start.len()).then(|| outputs.remove(0).data[0]);
        self.states = outputs;
        Ok(loss)
    }
}

/// The model with its trained tensors in place of those it came with.
///
/// # Errors
/// When the model's nodes do not name their weights.
pub fn trained(graph: &Graph, step: &TrainingStep, states: &[Tensor]) -> Result<Graph> {
    let mut graph = graph.clone();
    for (parameter, state) in step.parameters.iter().zip(states.iter().step_by(2)) {
        let fault = || Error::Usage(format!("layer {} has no weights of its own to replace", parameter.layer));
        let node = graph.nodes.iter_mut().find(|n| n.name == parameter.layer).ok_or_else(fault)?;
        let place = if parameter.bias { 2 } else { 1 };
        let turned = node.op == "Gemm" && !matches!(node.attributes.get("transB"), Some(Attribute::Int(1)));
        let turned = turned || node.op == "MatMul";
        let value = if turned && !parameter.bias { state.permute(&[1, 0]) } else { state.clone() };
        let name = format!("{}.{}", parameter.layer, if parameter.bias { "bias" } else { "weight" });
        if node.inputs.len() == place {
            node.inputs.push(name.clone());
        }
        *node.inputs.get_mut(place).ok_or_else(fault)? = name.clone();
        graph.constants.insert(name, Constant::Float(value));
    }
    // What no node reads any more goes.
    let read: std::collections::BTreeSet<String> = graph.nodes.iter().flat_map(|n| n.inputs.iter().cloned()).collect();
    graph.constants.retain(|name, _| read.contains(name));
    Ok(graph)
}

/// Share of a set's samples whose best class is their label.
///
/// # Errors
/// When a sample does not fit the model.
pub fn accuracy(graph: &Graph, set: &Set, classes: usize) -> Result<f64> {
    const BATCH: usize = 100;
    let mut right = 0;
    let rows: Vec<usize> = (0..set.samples.len()).collect();
    for rows in rows.chunks(BATCH) {
        let net = sordino_nn::import(graph, rows.len())?;
        let [x, _] = set.batch(rows, classes);
        let answer = &float::evaluate(&net, &[x], |_, _| ())?[0];
        for (row, &r) in answer.data.chunks_exact(classes).zip(rows) {
            let best = (0..classes).max_by(|&a, &b| row[a].total_cmp(&row[b]));
            right += usize::from(best == Some(usize::from(set.labels[r])));
        }
    }
    Ok(right as f64 / set.samples.len().max(1) as f64)
}
