//! The public order of a training's samples, the same training in floats, and the trained model.

use crate::data::{Labels, Set};
use crate::{Error, Result};
use aws_lc_rs::hmac;
use sordino_nn::graph::{Attribute, Graph};
use sordino_nn::training::{Kind, Loss, Part, TrainingStep};
use sordino_nn::{Constant, Ranges, Tensor, float};
use sordino_ring::PrgKey;

/// A tag of all owners' sets and of the seed of their order (HMAC-SHA-256): what a resumed training must have in common with
/// the first. Without the key it tells nothing of the data.
#[must_use]
pub fn fingerprint(sets: &[Set], seed: u64, key: &[u8; 32]) -> [u8; 32] {
    let mut tag = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    tag.update(&seed.to_le_bytes());
    for set in sets {
        tag.update(&(set.samples.len() as u64).to_le_bytes());
        match &set.labels {
            Labels::Classes(v) => v.iter().for_each(|c| tag.update(&(*c as u64).to_le_bytes())),
            Labels::Values(v) => v.iter().flatten().for_each(|c| tag.update(&c.to_le_bytes())),
        }
        set.weights.iter().flatten().for_each(|w| tag.update(&w.to_le_bytes()));
        for sample in &set.samples {
            let bytes: Vec<u8> = sample.data.iter().flat_map(|v| v.to_le_bytes()).collect();
            tag.update(&bytes);
        }
    }
    let mut out = [0; 32];
    out.copy_from_slice(tag.sign().as_ref());
    out
}

/// The rows of every batch, owner by owner: `[iteration][owner]`.
pub type Order = Vec<Vec<Vec<usize>>>;

/// Most rows of an order, repetitions included: about 4 GiB.
const MOST_ROWS: usize = 1 << 28;

/// How long a training is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Length {
    /// Passes over the data; one if neither is given.
    pub epochs: Option<usize>,
    /// Iterations.
    pub iterations: Option<usize>,
}

/// The public order: each owner gives a share of every batch that follows the size of its set, from permutations of its rows
/// drawn from the seed, one after the other. Every row is used: the last batch of an epoch goes on with the rows of the next.
///
/// Both limits may be left open; whichever is reached first counts.
///
/// # Errors
/// [`Error::Usage`] when there are fewer rows than a batch has, more owners than rows in it, or more batches than can be
/// ordered.
pub fn order(sizes: &[usize], batch: usize, limit: Length, seed: u64) -> Result<Order> {
    let all: usize = sizes.iter().sum();
    let rows = rows_of(sizes, batch).map_err(Error::Usage)?;
    // So many batches that every row of the first has been in one; the last goes on with the next permutation's rows.
    let epochs = limit.epochs.unwrap_or(if limit.iterations.is_some() { usize::MAX } else { 1 });
    let counted = epochs.saturating_mul(all).div_ceil(batch);
    let iterations = counted.min(limit.iterations.unwrap_or(usize::MAX));
    let drawn = iterations.saturating_mul(batch).saturating_add(all);
    if drawn.max(iterations.saturating_mul(batch)) > MOST_ROWS {
        return Err(Error::Usage(format!(
            "{iterations} iterations of {batch} samples are more than can be ordered at once; lower --epochs or --iterations"
        )));
    }
    let each: Vec<Vec<Vec<usize>>> =
        (0..sizes.len()).map(|k| order_of(sizes[k], rows[k], iterations, seed, k)).collect();
    Ok((0..iterations).map(|i| each.iter().map(|own| own[i].clone()).collect()).collect())
}

/// Which rows every batch takes of one owner.
#[must_use]
pub fn order_of(size: usize, rows: usize, iterations: usize, seed: u64, owner: usize) -> Vec<Vec<usize>> {
    let stream = permuted(size, (iterations * rows).div_ceil(size), seed, owner).concat();
    stream.chunks_exact(rows).take(iterations).map(<[usize]>::to_vec).collect()
}

/// How many rows of every batch each owner gives, by the sizes of their sets.
///
/// # Errors
/// What does not go together.
pub fn rows_of(sizes: &[usize], batch: usize) -> std::result::Result<Vec<usize>, String> {
    let all: usize = sizes.iter().sum();
    if all < batch {
        return Err(format!("{all} samples are fewer than the batch of {batch}; lower --batch"));
    }
    if sizes.len() > batch {
        return Err(format!("a batch of {batch} cannot have a sample of each of {} owners", sizes.len()));
    }
    // Shares by size, each at least one; what rounding leaves goes to, or comes from, whoever has most for its share.
    let mut rows: Vec<usize> = sizes.iter().map(|n| (n * batch / all).max(1)).collect();
    while rows.iter().sum::<usize>() != batch {
        let less = rows.iter().sum::<usize>() > batch;
        let load = |i: usize| sizes[i] as f64 / rows[i] as f64;
        let able = (0..sizes.len()).filter(|&i| !less || rows[i] > 1);
        let pick = able.max_by(|&a, &b| if less { load(b).total_cmp(&load(a)) } else { load(a).total_cmp(&load(b)) });
        let Some(i) = pick else { break };
        rows[i] = if less { rows[i] - 1 } else { rows[i] + 1 };
    }
    match (0..sizes.len()).find(|&i| sizes[i] < rows[i]) {
        Some(owner) => Err(format!("data owner {} has too few samples for a batch of {batch}", owner + 1)),
        None => Ok(rows),
    }
}

/// One permutation of so many rows.
pub(crate) fn permutation(rows: usize, seed: u64) -> Vec<usize> {
    // No owner's number: a set that is split is permuted in another way than when it is trained on.
    permuted(rows, 1, seed, usize::from(u8::MAX)).pop().unwrap_or_default()
}

/// One permutation for each epoch.
fn permuted(rows: usize, epochs: usize, seed: u64, owner: usize) -> Vec<Vec<usize>> {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8] = owner as u8;
    let numbers: Vec<u64> = PrgKey::new(key).words(rows * epochs);
    let shuffled = |numbers: &[u64]| {
        let mut rows: Vec<usize> = (0..rows).collect();
        // Fisher and Yates; the bias of the remainder is below 2^-40.
        for (i, n) in numbers.iter().enumerate().skip(1) {
            rows.swap(i, (n % (i as u64 + 1)) as usize);
        }
        rows
    };
    numbers.chunks_exact(rows).map(shuffled).collect()
}

/// The same training in floats.
pub struct Floats<'a> {
    step: &'a TrainingStep,
    iteration: usize,
    /// All states.
    pub states: Vec<Tensor>,
}

impl<'a> Floats<'a> {
    /// From the step's start.
    #[must_use]
    pub fn new(step: &'a TrainingStep) -> Self {
        Self { step, iteration: 0, states: step.start() }
    }

    /// The next iteration, on the inputs of all owners; returns the loss if the step tells it.
    ///
    /// # Errors
    /// When the batch does not fit, or a value is no longer finite.
    pub fn run(&mut self, batch: Vec<Tensor>, ranges: Option<&mut Ranges>) -> Result<Option<f32>> {
        let net = self.step.at(self.iteration);
        self.iteration += 1;
        let inputs: Vec<Tensor> = batch.into_iter().chain(std::mem::take(&mut self.states)).collect();
        if let Some(ranges) = ranges {
            ranges.merge(&Ranges::calibrate(&net, std::slice::from_ref(&inputs))?);
        }
        let mut outputs = float::evaluate(&net, &inputs, |_, _| ())?;
        let loss = (outputs.len() > self.step.states.len()).then(|| outputs.remove(0).data[0]);
        self.states = outputs;
        Ok(loss)
    }
}

/// How many states, from the first on, are tensors of the model.
#[must_use]
pub fn model_states(step: &TrainingStep) -> usize {
    step.states.iter().take_while(|s| matches!(s.kind, Kind::Value | Kind::Statistic)).count()
}

/// Refuses tensors that two layers share: each would be trained by itself.
///
/// # Errors
/// [`Error::Usage`] names the layers.
pub fn untied(graph: &Graph, step: &TrainingStep) -> Result<()> {
    let mut seen = std::collections::BTreeMap::new();
    for parameter in &step.parameters {
        let node = graph.nodes.iter().find(|n| n.name == parameter.layer);
        let Some(name) = node.and_then(|n| n.inputs.get(place(parameter.part).0)) else { continue };
        if let Some(other) = seen.insert(name.clone(), &parameter.layer)
            && other != &parameter.layer
        {
            let layer = &parameter.layer;
            return Err(Error::Usage(format!(
                "layers {other} and {layer} share {name}; training takes no shared weights"
            )));
        }
    }
    Ok(())
}

/// Where a node has a tensor, and what it is called.
fn place(part: Part) -> (usize, &'static str) {
    match part {
        Part::Weight => (1, "weight"),
        Part::Bias => (2, "bias"),
        Part::Mean => (3, "mean"),
        Part::Variance => (4, "variance"),
    }
}

/// The model with its trained tensors in place of those it came with, ready to answer: an export in training mode is
/// switched to evaluation.
///
/// # Errors
/// When the model's nodes do not name their weights.
pub fn trained(graph: &Graph, step: &TrainingStep, states: &[Tensor]) -> Result<Graph> {
    let mut uses = std::collections::BTreeMap::<&String, usize>::new();
    for name in graph.nodes.iter().filter(|n| n.op != "Shape").flat_map(|n| &n.inputs) {
        *uses.entry(name).or_default() += 1;
    }
    let original = graph;
    let mut graph = graph.clone();
    for parameter in &step.parameters {
        let state = &states[parameter.state];
        let fault = || Error::Usage(format!("layer {} has no weights of its own to replace", parameter.layer));
        let node = graph.nodes.iter_mut().find(|n| n.name == parameter.layer).ok_or_else(fault)?;
        let (place, what) = place(parameter.part);
        let turned = node.op == "Gemm" && !matches!(node.attributes.get("transB"), Some(Attribute::Int(1)));
        let turned = (turned || node.op == "MatMul") && parameter.part == Part::Weight;
        let mut value = if turned { state.permute(&[1, 0]) } else { state.clone() };
        // Kernels over one axis are kept as kernels over two.
        if let Some(own) = node.inputs.get(place).and_then(|n| original.constants.get(n))
            && own.dims().iter().product::<usize>() == value.data.len()
        {
            value.dims = own.dims().to_vec();
        }
        // Tensors keep their names, unless something else reads them too.
        let own = |n: &&String| original.constants.contains_key(*n) && uses.get(*n) == Some(&1);
        let name = node.inputs.get(place).filter(own).cloned();
        let name = name.unwrap_or_else(|| {
            let mut name = format!("{}.{what}", parameter.layer);
            while original.constants.contains_key(&name) {
                name.push('_');
            }
            name
        });
        if node.inputs.len() == place {
            node.inputs.push(name.clone());
        }
        *node.inputs.get_mut(place).ok_or_else(fault)? = name.clone();
        // These were taken into the weights when the model was read.
        node.attributes.remove("alpha");
        node.attributes.remove("beta");
        graph.constants.insert(name, Constant::Float(value.into()));
    }
    for node in &mut graph.nodes {
        match node.op.as_str() {
            "BatchNormalization" => {
                node.attributes.remove("training_mode");
                node.outputs.truncate(1);
            }
            "Dropout" => {
                node.inputs.truncate(2);
                node.outputs.truncate(1);
            }
            _ => {}
        }
    }
    // What no node reads any more goes.
    let read: std::collections::BTreeSet<String> = graph.nodes.iter().flat_map(|n| n.inputs.iter().cloned()).collect();
    graph.constants.retain(|name, _| read.contains(name));
    graph.nodes.retain(|n| n.op != "Constant" || n.outputs.iter().any(|o| read.contains(o)));
    Ok(graph)
}

/// How well a model answers a set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// Share of the samples whose best class is their label, if labels are classes.
    pub accuracy: Option<f64>,
    /// Mean of half the squared distance from the label, if labels are numbers.
    pub squared_error: Option<f64>,
}

/// Lets a model answer a set in floats, and judges by what it was trained for: the class that a distribution favours, or
/// numbers.
///
/// # Errors
/// When a sample does not fit the model.
pub fn scores(graph: &Graph, set: &Set, answers: usize, loss: Loss) -> Result<Scores> {
    const BATCH: usize = 100;
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let numbers = loss == Loss::SquaredError && matches!(set.labels, Labels::Values(_));
    let mut sum = 0.0;
    let rows: Vec<usize> = (0..set.samples.len()).collect();
    for rows in rows.chunks(BATCH) {
        let net = sordino_nn::import(graph, rows.len())?;
        let [x, _] = set.batch(rows, answers);
        let answer = &float::evaluate(&net, &[x], |_, _| ())?[0];
        for (row, &r) in answer.data.chunks_exact(answers).zip(rows) {
            sum += match &set.labels {
                Labels::Classes(labels) => f64::from(u8::from(best(row) == Some(labels[r]))),
                Labels::Values(labels) if !numbers => f64::from(u8::from(best(row) == best(&labels[r]))),
                Labels::Values(labels) => {
                    let distance = row.iter().zip(&labels[r]).map(|(a, b)| f64::from(a - b).powi(2));
                    0.5 * distance.sum::<f64>()
                }
            };
        }
    }
    let mean = Some(sum / set.samples.len().max(1) as f64);
    Ok(if numbers {
        Scores { accuracy: None, squared_error: mean }
    } else {
        Scores { accuracy: mean, squared_error: None }
    })
}

/// The learning rate of every iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// The same throughout.
    #[default]
    Constant,
    /// Times the step factor after every so many iterations.
    Step,
    /// Half a cosine from the rate towards zero.
    Cosine,
}

/// A shape with its numbers.
#[derive(Clone, Copy, Debug)]
pub struct Decline {
    /// The shape.
    pub shape: Shape,
    /// The rate it starts from.
    pub rate: f32,
    /// Iterations over which the rate first rises evenly.
    pub warmup: usize,
    /// Iterations of a step.
    pub every: usize,
    /// Factor of a step.
    pub factor: f32,
}

impl Decline {
    /// The rates of so many iterations.
    #[must_use]
    pub fn rates(&self, iterations: usize) -> Vec<f32> {
        let rate = |i: usize| {
            let shape = match self.shape {
                Shape::Constant => 1.0,
                Shape::Step => self.factor.powi((i / self.every.max(1)) as i32),
                // From above zero: the last rate is that of the middle of its iteration.
                Shape::Cosine => {
                    0.5 * (1.0 + (std::f32::consts::PI * (i as f32 + 0.5) / iterations.max(1) as f32).cos())
                }
            };
            let rise = (i + 1) as f32 / self.warmup.max(1) as f32;
            self.rate * shape * rise.min(1.0)
        };
        match (self.shape, self.warmup) {
            (Shape::Constant, 0) => vec![self.rate],
            _ => (0..iterations).map(rate).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_share_batches_by_size() -> Result<()> {
        let epochs = |n| Length { epochs: Some(n), iterations: None };
        let got = order(&[60, 20, 3], 10, epochs(2), 7)?;
        assert!(got.iter().all(|b| b.iter().map(Vec::len).collect::<Vec<_>>() == [7, 2, 1]), "{:?}", got[0]);
        for three in got.chunks_exact(3) {
            let mut rows: Vec<usize> = three.iter().flat_map(|b| b[2].clone()).collect();
            rows.sort_unstable();
            assert_eq!(rows, [0, 1, 2], "every row once before any comes again");
        }
        assert_eq!(got.len(), 17, "two epochs of 83 rows, the last batch filled up");
        assert_eq!(order(&[10], 5, epochs(1), 0)?.len(), 2);
        let mut eleven = order(&[11], 5, epochs(1), 0)?.concat().concat();
        assert_eq!(eleven.len(), 15);
        eleven.truncate(11);
        eleven.sort_unstable();
        assert_eq!(eleven, (0..11).collect::<Vec<_>>(), "no row is left out");
        assert!(order(&[3], 4, epochs(1), 0).is_err() && order(&[9, 9, 9], 2, epochs(1), 0).is_err());
        // Iterations take as many epochs as they need, and no more are drawn.
        let length = |epochs, iterations| Length { epochs, iterations: Some(iterations) };
        assert_eq!(order(&[10], 5, length(None, 7), 0)?.len(), 7);
        assert_eq!(order(&[10], 5, length(Some(2), 7), 0)?.len(), 4);
        assert_eq!(order(&[10], 5, length(Some(usize::MAX), 3), 0)?, order(&[10], 5, length(None, 3), 0)?);
        assert!(order(&[10], 5, epochs(usize::MAX), 0).is_err());
        Ok(())
    }

    #[test]
    fn rates_decline() {
        let base = Decline { shape: Shape::Step, rate: 0.1, warmup: 0, every: 2, factor: 0.5 };
        assert_eq!(base.rates(5), [0.1, 0.1, 0.05, 0.05, 0.025]);
        let cosine = Decline { shape: Shape::Cosine, warmup: 2, ..base }.rates(10);
        assert!(cosine[0] < cosine[1] && cosine.windows(2).skip(1).all(|w| w[1] < w[0]) && cosine[9] > 0.0);
        assert_eq!(Decline { shape: Shape::Constant, ..base }.rates(5), [0.1]);
    }
}
