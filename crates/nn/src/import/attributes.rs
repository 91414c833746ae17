//! Which attributes each operator has in ONNX's standard (operator sets 7 to 24), and what becomes of each: read, without effect
//! here, or taken with some values alone. What is not listed is an error, so that nothing is passed over.

use super::fault;
use crate::Result;
use crate::graph::{Attribute, Node};

/// What becomes of an attribute.
#[derive(Clone, Copy)]
pub(super) enum Use {
    /// It is read.
    Read,
    /// It changes nothing here; the text says why.
    #[expect(dead_code, reason = "the reason is for the reader of the table")]
    Without(&'static str),
    /// Only these integers are taken.
    Only(&'static [i64]),
    /// Only these texts are taken.
    Texts(&'static [&'static str]),
}

use Use::{Only, Read, Texts, Without};

type Known = &'static [(&'static str, Use)];

const AXIS: Known = &[("axis", Read)];
const REDUCE: Known = &[("axes", Read), ("keepdims", Read), ("noop_with_empty_axes", Read)];
const ARG: Known = &[("axis", Read), ("keepdims", Read), ("select_last_index", Read)];
const WINDOW: Known = &[
    ("auto_pad", Read),
    ("dilations", Read),
    ("group", Read),
    ("kernel_shape", Read),
    ("pads", Read),
    ("strides", Read),
];
const FLOATS: Use = Without("floats of any width are computed alike");

/// Operators by name.
const OPERATORS: &[(&str, Known)] = &[
    ("Abs", &[]),
    ("Add", &[]),
    ("And", &[]),
    ("ArgMax", ARG),
    ("ArgMin", ARG),
    (
        "AveragePool",
        &[
            ("auto_pad", Read),
            ("ceil_mode", Read),
            ("count_include_pad", Read),
            ("dilations", Read),
            ("kernel_shape", Read),
            ("pads", Read),
            ("strides", Read),
        ],
    ),
    (
        "BatchNormalization",
        &[("epsilon", Read), ("momentum", Read), ("spatial", Only(&[1])), ("training_mode", Only(&[0]))],
    ),
    ("Cast", &[("to", Read), ("saturate", FLOATS), ("round_mode", FLOATS)]),
    ("CastLike", &[("saturate", FLOATS), ("round_mode", FLOATS)]),
    ("Ceil", &[]),
    ("Celu", &[("alpha", Read)]),
    ("Clip", &[("max", Read), ("min", Read)]),
    ("Compress", AXIS),
    ("Concat", AXIS),
    (
        "Constant",
        &[("value", Read), ("value_float", Read), ("value_floats", Read), ("value_int", Read), ("value_ints", Read)],
    ),
    ("ConstantOfShape", &[("value", Read)]),
    ("Conv", WINDOW),
    ("Cos", &[]),
    ("CumSum", &[("exclusive", Read), ("reverse", Read)]),
    ("DepthToSpace", &[("blocksize", Read), ("mode", Texts(&["DCR", "CRD"]))]),
    ("DequantizeLinear", &[("axis", Read), ("block_size", Only(&[0])), ("output_dtype", FLOATS)]),
    ("Div", &[]),
    ("Dropout", &[("ratio", Read), ("seed", Without("masks of a training follow from the training's own seed"))]),
    ("Elu", &[("alpha", Read)]),
    ("Equal", &[]),
    ("Erf", &[]),
    ("Exp", &[]),
    ("Expand", &[]),
    ("EyeLike", &[("dtype", FLOATS), ("k", Read)]),
    ("Flatten", AXIS),
    ("Floor", &[]),
    ("Gather", AXIS),
    ("GatherElements", AXIS),
    ("GatherND", &[("batch_dims", Read)]),
    ("Gelu", &[("approximate", Texts(&["none", "tanh"]))]),
    ("Gemm", &[("alpha", Read), ("beta", Read), ("transA", Read), ("transB", Read)]),
    ("GlobalAveragePool", &[]),
    ("GlobalLpPool", &[("p", Only(&[1, 2]))]),
    ("GlobalMaxPool", &[]),
    ("Greater", &[]),
    ("GreaterOrEqual", &[]),
    ("GroupNormalization", &[("epsilon", Read), ("num_groups", Read), ("stash_type", FLOATS)]),
    ("HardSigmoid", &[("alpha", Read), ("beta", Read)]),
    ("HardSwish", &[]),
    ("Identity", &[]),
    ("InstanceNormalization", &[("epsilon", Read)]),
    ("IsInf", &[("detect_negative", Read), ("detect_positive", Read)]),
    ("IsNaN", &[]),
    ("LRN", &[("alpha", Read), ("beta", Read), ("bias", Read), ("size", Read)]),
    ("LayerNormalization", &[("axis", Read), ("epsilon", Read), ("stash_type", FLOATS)]),
    ("LeakyRelu", &[("alpha", Read)]),
    ("Less", &[]),
    ("LessOrEqual", &[]),
    ("Log", &[]),
    ("LogSoftmax", AXIS),
    ("LpNormalization", &[("axis", Read), ("p", Only(&[1, 2]))]),
    (
        "LpPool",
        &[
            ("auto_pad", Read),
            ("ceil_mode", Read),
            ("dilations", Read),
            ("kernel_shape", Read),
            ("p", Only(&[1, 2])),
            ("pads", Read),
            ("strides", Read),
        ],
    ),
    ("MatMul", &[]),
    ("Max", &[]),
    (
        "MaxPool",
        &[
            ("auto_pad", Read),
            ("ceil_mode", Read),
            ("dilations", Read),
            ("kernel_shape", Read),
            ("pads", Read),
            ("storage_order", Without("it orders the indices of the maxima, which are not supported")),
            ("strides", Read),
        ],
    ),
    ("Mean", &[]),
    ("MeanVarianceNormalization", &[("axes", Read)]),
    ("Min", &[]),
    ("Mish", &[]),
    ("Mod", &[("fmod", Read)]),
    ("Mul", &[]),
    ("Neg", &[]),
    ("NonZero", &[]),
    ("Not", &[]),
    ("Or", &[]),
    ("PRelu", &[]),
    ("Pad", &[("mode", Texts(&["constant", "reflect", "edge", "wrap"])), ("pads", Read), ("value", Read)]),
    ("Pow", &[]),
    ("RMSNormalization", &[("axis", Read), ("epsilon", Read), ("stash_type", FLOATS)]),
    ("Range", &[]),
    ("Reciprocal", &[]),
    ("ReduceL1", REDUCE),
    ("ReduceL2", REDUCE),
    ("ReduceLogSum", REDUCE),
    ("ReduceLogSumExp", REDUCE),
    ("ReduceMax", REDUCE),
    ("ReduceMean", REDUCE),
    ("ReduceMin", REDUCE),
    ("ReduceProd", REDUCE),
    ("ReduceSum", REDUCE),
    ("ReduceSumSquare", REDUCE),
    ("Relu", &[]),
    ("Reshape", &[("allowzero", Read)]),
    (
        "Resize",
        &[
            ("antialias", Only(&[0])),
            ("axes", Read),
            ("coordinate_transformation_mode", Read),
            ("cubic_coeff_a", Read),
            ("exclude_outside", Read),
            ("extrapolation_value", Without("only tf_crop_and_resize reads it, which is not supported")),
            ("keep_aspect_ratio_policy", Texts(&["stretch"])),
            ("mode", Texts(&["nearest", "linear", "cubic"])),
            ("nearest_mode", Read),
        ],
    ),
    ("ReverseSequence", &[("batch_axis", Read), ("time_axis", Read)]),
    ("Round", &[]),
    ("ScatterElements", &[("axis", Read), ("reduction", Texts(&["none"]))]),
    ("ScatterND", &[("reduction", Texts(&["none"]))]),
    ("Selu", &[("alpha", Read), ("gamma", Read)]),
    ("Shape", &[("end", Read), ("start", Read)]),
    ("Shrink", &[("bias", Read), ("lambd", Read)]),
    ("Sigmoid", &[]),
    ("Sign", &[]),
    ("Sin", &[]),
    ("Size", &[]),
    ("Slice", &[("axes", Read), ("ends", Read), ("starts", Read)]),
    ("Softmax", AXIS),
    ("Softplus", &[]),
    ("Softsign", &[]),
    ("SpaceToDepth", &[("blocksize", Read)]),
    ("Split", &[("axis", Read), ("num_outputs", Read), ("split", Read)]),
    ("Sqrt", &[]),
    ("Squeeze", &[("axes", Read)]),
    ("Sub", &[]),
    ("Sum", &[]),
    ("Swish", &[("alpha", Read)]),
    ("Tanh", &[]),
    ("ThresholdedRelu", &[("alpha", Read)]),
    ("Tile", &[]),
    ("Transpose", &[("perm", Read)]),
    ("Trilu", &[("upper", Read)]),
    ("Unsqueeze", &[("axes", Read)]),
    ("Upsample", &[("mode", Texts(&["nearest", "linear"])), ("scales", Read)]),
    ("Where", &[]),
    ("Xor", &[]),
];

/// Names of all operators that import, in order.
#[must_use]
pub fn supported() -> Vec<&'static str> {
    OPERATORS.iter().map(|o| o.0).collect()
}

/// True when an operator of this name imports, on constants at least.
pub(super) fn known(op: &str) -> bool {
    OPERATORS.iter().any(|o| o.0 == op)
}

/// Refuses an attribute that its operator does not have, or a value that is not computed here.
pub(super) fn check(node: &Node, training: bool) -> Result<()> {
    let Some((_, known)) = OPERATORS.iter().find(|o| o.0 == node.op) else { return Ok(()) };
    for (name, value) in &node.attributes {
        let Some((_, what)) = known.iter().find(|(n, _)| n == name) else {
            return fault(node, format!("attribute {name} is none that this operator has"));
        };
        match (what, value) {
            (Only(all), Attribute::Int(v)) if all.contains(v) || (training && name == "training_mode") => {}
            (Only(all), Attribute::Int(v)) => {
                return fault(node, format!("{name} {v} is not supported, only {}", list(all)));
            }
            (Texts(all), Attribute::Text(v)) if all.contains(&v.as_str()) => {}
            (Texts(all), Attribute::Text(v)) => {
                return fault(node, format!("{name} {v} is not supported, only {}", all.join(" or ")));
            }
            (Only(_) | Texts(_), _) => return fault(node, format!("attribute {name} has another type than its own")),
            (Read | Without(_), _) => {}
        }
    }
    Ok(())
}

fn list(all: &[i64]) -> String {
    all.iter().map(i64::to_string).collect::<Vec<_>>().join(" or ")
}

/// Reads a node's attributes.
pub(super) struct Attributes<'a>(pub(super) &'a Node);

impl Attributes<'_> {
    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        match self.0.attributes.get(name) {
            Some(Attribute::Int(v)) => *v,
            _ => default,
        }
    }
    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        match self.0.attributes.get(name) {
            Some(Attribute::Float(v)) => *v,
            _ => default,
        }
    }
    pub(super) fn floats(&self, name: &str) -> Option<Vec<f32>> {
        match self.0.attributes.get(name) {
            Some(Attribute::Floats(v)) => Some(v.clone()),
            _ => None,
        }
    }
    pub(super) fn ints(&self, name: &str) -> Option<Vec<i64>> {
        match self.0.attributes.get(name) {
            Some(Attribute::Ints(v)) => Some(v.clone()),
            _ => None,
        }
    }
    pub(super) fn text(&self, name: &str) -> &str {
        match self.0.attributes.get(name) {
            Some(Attribute::Text(v)) => v,
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_in_order_and_named_once() {
        assert!(OPERATORS.is_sorted_by(|a, b| a.0 < b.0));
        for (op, known) in OPERATORS {
            assert!(known.iter().enumerate().all(|(i, a)| known[..i].iter().all(|b| a.0 != b.0)), "{op}");
        }
    }
}
