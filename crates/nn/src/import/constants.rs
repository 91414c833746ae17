//! Nodes that depend on constants and shapes alone are computed at import: by rules for integers and shapes, by the places of
//! moved elements, else by the float reference of the layers they would become.

use super::{Attributes, Importer, Known, fault};
use crate::graph::Node;
use crate::network::Network;
use crate::tensor::{Constant, Tensor};
use crate::{Result, float, fold};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

impl Importer<'_> {
    /// Computes a node of constants; false when it reads something computed.
    pub(super) fn folded(&mut self, node: &Node) -> Result<bool> {
        let results = match self.by_shape(node)? {
            Some(result) => vec![result],
            None => {
                let mut inputs = vec![];
                for i in 0..node.inputs.len() {
                    match self.known(node, i)? {
                        Some(Known::Constant(c)) => inputs.push(Some(c)),
                        Some(Known::Value(_)) => return Ok(false),
                        None => inputs.push(None),
                    }
                }
                self.constants(node, &inputs)?
            }
        };
        for (name, result) in node.outputs.iter().zip(results) {
            self.charge(node, result.dims().iter().product())?;
            self.known.insert(name.clone(), Known::Constant(Arc::new(result)));
        }
        Ok(true)
    }

    /// What needs no more of a computed value than its shape.
    fn by_shape(&self, node: &Node) -> Result<Option<Constant>> {
        let attrs = Attributes(node);
        let value = |i: usize| match self.known(node, i) {
            Ok(Some(Known::Value(x))) => Some(self.dims(x)),
            _ => None,
        };
        Ok(match (node.op.as_str(), value(0)) {
            ("Shape", Some(dims)) => Some(fold::shape(&dims, attrs.int("start", 0), attrs.int("end", i64::MAX))),
            ("Size", Some(dims)) => Some(Constant::Int(vec![], vec![dims.iter().product::<usize>() as i64])),
            // Computed values are floats.
            ("CastLike", None) => match (self.known(node, 0)?, value(1)) {
                (Some(Known::Constant(c)), Some(_)) => Some(Constant::Float(Arc::new(fold::as_float(&c)))),
                _ => None,
            },
            _ => None,
        })
    }

    fn constants(&mut self, node: &Node, inputs: &[Option<Arc<Constant>>]) -> Result<Vec<Constant>> {
        let left = self.left.get();
        if let Some(result) = fold::evaluate(node, inputs, left)? {
            return Ok(vec![result]);
        }
        if let Some(result) = fold::elementwise(node, inputs, left)? {
            return Ok(vec![result]);
        }
        let Some(Some(first)) = inputs.first() else {
            return fault(node, "it is not computed on constants");
        };
        if let Some(moved) = self.places(node, &Attributes(node), first.dims())? {
            return match fold::moved(first, &moved) {
                Some(result) => Ok(vec![result]),
                None => fault(node, "it fills integers with a number that is none"),
            };
        }
        self.by_floats(node, first)
    }

    /// The layers that the node would be on a computed operand, in floats.
    fn by_floats(&mut self, node: &Node, first: &Constant) -> Result<Vec<Constant>> {
        let operand = fold::as_float(first);
        if operand.data.is_empty() || operand.data.iter().any(|v| !v.is_finite()) {
            return fault(node, "its constant operand is empty, or not finite");
        }
        self.charge(node, operand.data.len())?;
        let mut part = Importer {
            graph: self.graph,
            net: Network::default(),
            known: HashMap::new(),
            left: Cell::new(self.left.get()),
            made: self.made.clone(),
        };
        for (i, name) in node.inputs.iter().enumerate().skip(1) {
            if let Some(known) = self.known(node, i)? {
                part.known.insert(name.clone(), known);
            }
        }
        let x = part.net.value(&node.inputs[0], &operand.dims);
        part.net.inputs.push(x);
        part.known.insert(node.inputs[0].clone(), Known::Value(x));
        part.node(node)?;
        for name in node.outputs.iter().filter(|o| !o.is_empty()) {
            let Some(Known::Value(id)) = part.known.get(name) else {
                return fault(node, "it is not computed on constants");
            };
            part.net.outputs.push((name.clone(), *id));
        }
        let elements = |id: usize| part.net.shapes[id].iter().product::<usize>();
        let all = part.net.nodes.iter().map(|n| elements(n.output)).fold(0, usize::saturating_add);
        self.charge(node, all)?;
        let results = float::evaluate(&part.net, &[operand], |_, _| ())?;
        let whole = matches!(first, Constant::Int(..));
        let kind = |t: Tensor| match whole && t.data.iter().all(|v| v.fract() == 0.0) {
            true => Constant::Int(t.dims, t.data.iter().map(|&v| v as i64).collect()),
            false => Constant::Float(Arc::new(t)),
        };
        Ok(results.into_iter().map(kind).collect())
    }
}
