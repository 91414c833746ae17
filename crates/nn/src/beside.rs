//! A network for several samples in which every sample is an input of its own, and every answer an output of its own: so that samples of
//! different owners can be computed side by side, and opened apart.

use crate::lower::{Options, Ranges, unguarded};
use crate::network::{Layer, LayerNode, Network, ValueId};
use crate::program::{Program, Secrets};
use crate::{Error, Result};

/// The name of a row of a value.
fn row_of(name: &str, row: usize) -> String {
    format!("{name}.row{row}")
}

/// The network with rows apart; `None` when samples are not rows of every input and output.
fn apart(net: &Network, rows: usize) -> Option<Network> {
    let batch = net.batch.as_ref()?;
    let firsts = batch.inputs.iter().chain(&batch.outputs).all(|axis| *axis == 0);
    let ends = net.inputs.iter().copied().chain(net.outputs.iter().map(|o| o.1));
    if !firsts || !ends.into_iter().all(|id| net.shapes[id].first() == Some(&rows)) {
        return None;
    }
    let mut apart = net.clone();
    apart.batch = None;
    let mut inputs = vec![];
    for (i, whole) in net.inputs.iter().copied().enumerate() {
        let (name, dims) = (net.names[whole].clone(), [&[1], &net.shapes[whole][1..]].concat());
        let parts: Vec<ValueId> = (0..rows).map(|row| apart.value(&row_of(&name, row), &dims)).collect();
        let node = LayerNode {
            name: format!("{name}.rows"),
            op: "Concat".into(),
            layer: Layer::Concat(0),
            inputs: parts.clone(),
            output: whole,
        };
        apart.nodes.insert(i, node);
        inputs.extend(parts);
    }
    apart.inputs = inputs;
    apart.outputs.clear();
    for (name, whole) in &net.outputs {
        let dims = [&[1], &net.shapes[*whole][1..]].concat();
        for row in 0..rows {
            let out = apart.value(&row_of(&net.names[*whole], row), &dims);
            let mut start = vec![0; dims.len()];
            start[0] = row as isize;
            apart.nodes.push(LayerNode {
                name: row_of(name, row),
                op: "Slice".into(),
                layer: Layer::Slice { start, step: vec![1; dims.len()], fill: 0.0 },
                inputs: vec![*whole],
                output: out,
            });
            apart.outputs.push((row_of(name, row), out));
        }
    }
    Some(apart)
}

/// Compiles a network that was typed for `rows` samples so that each is an input of a data owner of its own, and each answer an output of its own. Inputs
/// and outputs come by the network's own, then by rows. `None` when samples are not rows of every input and output.
///
/// # Errors
/// As for [`crate::compile`].
pub fn compile_beside(
    net: &Network,
    rows: usize,
    ranges: &Ranges,
    options: &Options,
) -> Result<Option<(Program, Secrets)>> {
    if !(2..=usize::from(sordino_mpc::MOST_OWNERS)).contains(&rows) {
        return Err(Error::Model(format!(
            "{rows} samples side by side; 2 to {} are possible",
            sordino_mpc::MOST_OWNERS
        )));
    }
    let Some(apart) = apart(net, rows) else { return Ok(None) };
    let mut ranges = ranges.clone();
    for whole in net.inputs.iter().copied().chain(net.outputs.iter().map(|o| o.1)) {
        if let Some(range) = ranges.values.get(&net.names[whole]).cloned() {
            for row in 0..rows {
                ranges.values.insert(row_of(&net.names[whole], row), range);
            }
        }
    }
    let (mut program, secrets) = unguarded(&apart, &ranges, options)?;
    for (i, port) in program.inputs.iter_mut().enumerate() {
        port.owner = (i % rows) as u8;
    }
    crate::guard::guard(&mut program, if options.guarded() { rows } else { 0 });
    if let Some(most) = options.at_once {
        crate::slices::slice(&mut program, most);
    }
    Ok(Some((program, secrets)))
}
