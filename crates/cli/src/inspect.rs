//! `sordino inspect`.

use super::print;
use clap::Args;
use sordino::{Result, model};
use std::path::PathBuf;

/// Arguments of `inspect`.
#[derive(Args)]
pub(crate) struct Inspect {
    /// The model, an ONNX file.
    model: PathBuf,
    /// Also list every layer, after folding, with its shape.
    #[arg(long)]
    layers: bool,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<()> {
        let graph = model::read(&self.model)?;
        let typed = model::typed(&graph, 1)?;
        let (net, passed) = (&typed.reference, &typed.passed);
        let mut text =
            format!("operator set {}, {} nodes, {} weights\n", graph.opset, graph.nodes.len(), graph.parameters());
        for &id in &net.inputs {
            text += &format!("input   {} {:?}\n", net.names[id], net.shapes[id]);
        }
        for (name, id) in &net.outputs {
            text += &format!("output  {name} {:?}\n", net.shapes[*id]);
        }
        text += &format!(
            "{} layers ({} after folding), {:.3} G multiplications; every operator is supported\n",
            net.nodes.len(),
            passed.nodes.len(),
            passed.macs() as f64 / 1e9
        );
        if self.layers {
            for node in &passed.nodes {
                text +=
                    &format!("  {:<20} {:<24} {}\n", node.op, format!("{:?}", passed.shapes[node.output]), node.name);
            }
        }
        print(&text)
    }
}
