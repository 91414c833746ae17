//! Samples and batches of models with one input or several, and answers put together again.

use sordino_nn::Tensor;
use sordino_nn::program::{Port, Program};

/// One value for each input of a model.
pub type Sample = Vec<Tensor>;

/// Samples as one run's inputs; the last is repeated to fill them up.
#[must_use]
pub fn join(program: &Program, samples: &[Sample]) -> Sample {
    let one = |(i, port): (usize, &Port)| match port.batch {
        None => samples[0][i].clone(),
        Some(axis) => {
            let last = samples.len() - 1;
            let parts: Vec<&Tensor> = (0..port.dims[axis]).map(|s| &samples[s.min(last)][i]).collect();
            along(&parts, axis)
        }
    };
    program.inputs.iter().enumerate().map(one).collect()
}

/// How many samples one run takes.
#[must_use]
pub fn batch(program: &Program) -> usize {
    program.inputs.first().and_then(|p| Some(p.dims[p.batch?])).unwrap_or(1)
}

/// Tensors joined along an axis.
fn along(parts: &[&Tensor], axis: usize) -> Tensor {
    let mut dims = parts[0].dims.clone();
    dims[axis] = parts.iter().map(|p| p.dims[axis]).sum();
    let outer: usize = dims[..axis].iter().product();
    let mut data = Vec::with_capacity(dims.iter().product());
    for o in 0..outer {
        for p in parts {
            let width: usize = p.dims[axis..].iter().product();
            data.extend_from_slice(&p.data[o * width..(o + 1) * width]);
        }
    }
    Tensor::new(&dims, data)
}

/// What all runs answered at one output, whole: joined along its batch as far as there were samples; where it has none, one run's
/// as it is, several below each other. A run takes `per_run` samples.
#[must_use]
pub fn whole(batch: Option<usize>, runs: &[Tensor], samples: usize, per_run: usize) -> Tensor {
    let parts: Vec<&Tensor> = runs.iter().collect();
    let Some(axis) = batch else {
        if let [one] = runs {
            return one.clone();
        }
        let data = runs.iter().flat_map(|r| r.data.iter().copied()).collect();
        return Tensor::new(&[&[runs.len()], &runs[0].dims[..]].concat(), data);
    };
    let all = along(&parts, axis);
    // A sample may have several elements on the axis.
    let samples = samples * (runs[0].dims[axis] / per_run.max(1));
    if all.dims[axis] <= samples {
        return all;
    }
    let (outer, inner): (usize, usize) = (all.dims[..axis].iter().product(), all.dims[axis + 1..].iter().product());
    let mut dims = all.dims.clone();
    dims[axis] = samples;
    let kept = |o: usize| all.data[o * all.dims[axis] * inner..][..samples * inner].iter().copied();
    Tensor::new(&dims, (0..outer).flat_map(kept).collect())
}

/// A whole answer, one row for each sample.
#[must_use]
pub fn rows(batch: Option<usize>, whole: &Tensor, samples: usize) -> Vec<Vec<f32>> {
    let by_sample = match batch {
        Some(axis) if axis > 0 => {
            let order: Vec<usize> = std::iter::once(axis).chain((0..whole.dims.len()).filter(|&a| a != axis)).collect();
            whole.permute(&order)
        }
        _ => whole.clone(),
    };
    let n = by_sample.data.len() / samples.max(1);
    by_sample.data.chunks(n.max(1)).map(<[f32]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole() {
        let t = |dims: &[usize], from: f32| {
            let n = dims.iter().product::<usize>();
            Tensor::new(dims, (0..n).map(|i| from + i as f32).collect())
        };
        let runs = [t(&[2, 2], 0.0), t(&[2, 2], 4.0)];
        assert_eq!(whole(Some(0), &runs, 3, 2), t(&[3, 2], 0.0));
        let side = whole(Some(1), &runs, 3, 2);
        assert_eq!((side.dims.clone(), side.data.clone()), (vec![2, 3], vec![0.0, 1.0, 4.0, 2.0, 3.0, 6.0]));
        assert_eq!(rows(Some(1), &side, 3), [[0.0, 2.0], [1.0, 3.0], [4.0, 6.0]]);
        // Two rows of each sample.
        assert_eq!(whole(Some(0), &[t(&[4, 1], 0.0), t(&[4, 1], 4.0)], 3, 2), t(&[6, 1], 0.0));
        assert_eq!(whole(None, &runs[..1], 1, 1), runs[0]);
        assert_eq!(whole(None, &runs, 2, 1), t(&[2, 2, 2], 0.0));
        assert_eq!(whole(None, &[t(&[], 5.0)], 1, 1), t(&[], 5.0));
        assert_eq!(rows(None, &t(&[], 5.0), 1), [[5.0]]);
    }
}
