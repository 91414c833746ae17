//! `sordino inspect`.

use super::{Open, of_model, print};
use clap::Args;
use sordino::{Error, Result, model};
use sordino_nn::{Batch, Options, Ranges, Tensor};
use std::path::PathBuf;

/// Arguments of `inspect`.
#[derive(Args)]
pub(crate) struct Inspect {
    /// The model, an ONNX file.
    model: PathBuf,
    #[command(flatten)]
    open: Open,
    /// Also list every layer, after folding, with its shape.
    #[arg(long)]
    layers: bool,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<()> {
        let graph = self.open.read(&self.model)?;
        let named = |e| of_model(&self.model, e);
        let typed = model::typed(&graph, 1).map_err(named)?;
        let (net, passed) = (&typed.reference, &typed.passed);
        let mut text =
            format!("operator set {}, {} nodes, {} weights\n", graph.opset, graph.nodes.len(), graph.parameters());
        for &id in &net.inputs {
            text += &format!("input   {} {:?}\n", net.names[id], net.shapes[id]);
        }
        for (name, id) in &net.outputs {
            text += &format!("output  {name} {:?}\n", net.shapes[*id]);
        }
        text += &match &net.batch {
            Some(Batch { inputs, outputs }) => {
                let axes = |all: &[usize]| all.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
                format!("batch   axis {} of the inputs, axis {} of the outputs\n", axes(inputs), axes(outputs))
            }
            None => "batch   none: the model takes one input, whole\n".into(),
        };
        // What a run compiles, with ranges that any numbers give.
        let sample = |&id: &usize| {
            let dims = &net.shapes[id];
            Tensor::new(dims, (0..dims.iter().product()).map(|i: usize| (i % 17) as f32 / 17.0).collect())
        };
        let ranges = Ranges::calibrate(passed, &[net.inputs.iter().map(sample).collect()])?;
        let compiles = match model::compiled(&typed, &ranges, &Options::default()) {
            Ok(_) if net.inputs.len() > 1 => "all operators import".to_string(),
            Ok(_) => "every operator is supported".to_string(),
            Err(Error::Model(sordino_nn::Error::Range { layer, why })) => {
                format!(
                    "every operator is supported; whether layer {layer} can be computed depends on the inputs ({why})"
                )
            }
            Err(e) => return Err(named(e)),
        };
        text += &format!(
            "{} layers ({} after folding), {:.3} G multiplications; {compiles}\n",
            net.nodes.len(),
            passed.nodes.len(),
            passed.macs() as f64 / 1e9
        );
        if net.inputs.len() > 1 {
            text +=
                "several inputs: give a file for each as --input NAME=FILE, or one .npz with arrays of their names\n";
        }
        if self.layers {
            for node in &passed.nodes {
                text +=
                    &format!("  {:<20} {:<24} {}\n", node.op, format!("{:?}", passed.shapes[node.output]), node.name);
            }
        }
        print(&text)
    }
}
