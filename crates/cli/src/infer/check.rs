//! `sordino infer --check`: the answer against floats, and where they part.

use super::{Job, answers};
use sordino::Result;
use sordino::model::Typed;
use sordino::owners::Finished;
use sordino::report::{Check, LayerError, check};
use sordino::samples;
use sordino_mpc::{Clear, ClearTensor, Step};
use sordino_nn::exec::{Loaded, decode_outputs, encode_inputs};
use sordino_nn::{Tensor, float};
use sordino_ring::Cpu;
use std::collections::BTreeMap;

/// Mean relative error from which on an answer is off, and its layers are looked at.
const OFF: f64 = 0.01;

/// How far floats may be from themselves.
pub(super) const DOUBT: f64 = 1e-3;

/// Compares all outputs of all runs with the float reference.
pub(super) fn checked(typed: &Typed, job: &Job, done: &Finished) -> Result<Check> {
    let program = &job.program;
    let got: Vec<Vec<Tensor>> = done.outputs.iter().map(|run| decode_outputs(program, run)).collect();
    let floats = |net| job.batches.iter().map(|b| Ok(float::evaluate(net, b, |_, _| ())?)).collect::<Result<Vec<_>>>();
    let (want, again) = (floats(&typed.reference)?, floats(&typed.passed)?);
    let [got, want, again] = [got, want, again].map(|runs| answers(program, &runs, job.samples));
    let rows = |all: &[Tensor], i: usize| samples::rows(program.outputs[i].batch, &all[i], job.samples);
    let compared = |a: &[Tensor], b: &[Tensor]| {
        let each = (0..program.outputs.len()).map(|i| check(&rows(a, i), &rows(b, i)));
        each.reduce(Check::worse).unwrap_or_default()
    };
    let mut check = compared(&got, &want);
    check.float_doubt = compared(&again, &want).mean_rel_err;
    let off = check.mean_rel_err > OFF || check.mean_rel_err.is_nan();
    let seen = seen(typed, job, off)?;
    (check.overflows, check.layers) = (seen.overflows, seen.errors);
    Ok(check)
}

/// What the fixed-point oracle saw.
struct Seen {
    overflows: Vec<String>,
    errors: Vec<LayerError>,
}

/// Names the layers whose values leave their ring: results by the float reference, whose values cannot wrap, and what
/// lies within a layer by the fixed-point oracle. Where the answer is off, says how far each layer's result there is from floats.
fn seen(typed: &Typed, job: &Job, off: bool) -> Result<Seen> {
    let program = &job.program;
    let clear = Clear::new(Cpu::new(1)).with(program.settings);
    let mut at = Step::root([0; 16]);
    let loaded = Loaded::load(&clear, at.child("load"), program, Some(&job.secrets))?;
    clear.take_overflow();
    let mut found: BTreeMap<usize, String> = BTreeMap::new();
    let places: BTreeMap<&str, usize> =
        program.layers.iter().enumerate().filter_map(|(i, l)| Some((l.result.as_ref()?.0.as_str(), i))).collect();
    let slots: BTreeMap<usize, usize> =
        program.layers.iter().enumerate().filter_map(|(i, l)| Some((l.result.as_ref()?.1, i))).collect();
    // Sums of distances and of magnitudes.
    let mut errors: BTreeMap<usize, [f64; 2]> = BTreeMap::new();
    for (number, batch) in job.batches.iter().enumerate() {
        let (mut wild, mut floats) = (vec![], BTreeMap::new());
        float::evaluate(&typed.passed, batch, |node, value| {
            let place = places.get(typed.passed.names[node.output].as_str());
            let Some(&layer) = place else { return };
            // One batch is enough to see where an answer goes wrong.
            if off && number == 0 {
                floats.insert(layer, laid_out(value));
            }
            if let Some(capacity) = program.capacity(layer)
                && f64::from(value.max_abs()) >= capacity
            {
                wild.push((layer, value.max_abs(), capacity));
            }
        })?;
        for (layer, value, capacity) in wild {
            let name = &program.layers[layer].name;
            let line = format!("layer {name}: a value of {value:.4e} does not fit its {capacity:.4e}");
            found.entry(layer).or_insert(line);
        }
        let encoded = encode_inputs(program, batch)?;
        let mut layer = 0;
        let mut note = |layer: usize| {
            if let Some(o) = clear.take_overflow() {
                let name = &program.layers[layer].name;
                let line = format!("layer {name}: {} integers within it, such as {}, do not fit", o.count, o.value);
                found.entry(layer).or_insert(line);
            }
        };
        let watch = |next: usize| {
            note(layer);
            layer = next;
        };
        let see = |slot: usize, value: &ClearTensor| {
            let Some(&layer) = slots.get(&slot) else { return };
            let Some(floats) = floats.remove(&layer) else { return };
            let scale = program.slots[slot].scale;
            let pairs = value.values().iter().zip(&floats).map(|(&v, &w)| (v as f64 / scale, f64::from(w)));
            let sum = errors.entry(layer).or_default();
            pairs.for_each(|(v, w)| (sum[0], sum[1]) = (sum[0] + (v - w).abs(), sum[1] + w.abs()));
        };
        loaded.run_seen(&clear, at.child("run"), Some(&encoded), watch, see)?;
        note(program.layers.len() - 1);
    }
    let errors = errors.into_iter().map(|(layer, [off, all])| LayerError {
        name: program.layers[layer].name.clone(),
        mean_rel_err: off / all.max(f64::MIN_POSITIVE),
    });
    // From the first that is off on.
    let errors = errors.skip_while(|l| l.mean_rel_err <= OFF / 10.0).collect();
    Ok(Seen { overflows: found.into_values().collect(), errors })
}

/// A value as programs lay it out.
fn laid_out(x: &Tensor) -> Vec<f32> {
    if x.dims.len() == 4 { x.permute(&[0, 2, 3, 1]).data } else { x.data.clone() }
}
