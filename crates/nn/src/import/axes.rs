//! Which axes of a model's inputs are the batch, and what else its inputs leave open.

use crate::graph::{BatchAxis, Dim, Graph};
use crate::{Error, Result};

/// Which axes of the inputs are the batch.
pub(super) enum Axes {
    /// None is.
    None,
    /// These, of this size when the model was exported.
    Exported(usize, Vec<usize>),
    /// These, of any size.
    Symbol(Vec<usize>),
}

/// Names of the dimensions that the inputs leave open.
fn symbols(graph: &Graph) -> Vec<&str> {
    let mut symbols: Vec<&str> = vec![];
    for d in graph.inputs.iter().flat_map(|(_, dims)| dims) {
        if let Dim::Symbol(s) = d
            && !symbols.contains(&s.as_str())
        {
            symbols.push(s);
        }
    }
    symbols
}

/// Which of them is the batch.
fn batch_symbol(graph: &Graph) -> Option<&str> {
    let symbols = symbols(graph);
    let likely = |s: &str| s.to_lowercase().contains("batch") || matches!(s, "N" | "n" | "B" | "b" | "bs");
    let at = |axis: usize| {
        graph.inputs.iter().find_map(|(_, dims)| match dims.get(axis) {
            Some(Dim::Symbol(s)) => Some(s.as_str()),
            _ => None,
        })
    };
    match graph.batch_axis {
        BatchAxis::None => None,
        BatchAxis::At(axis) => at(axis),
        // One that is called so, or that of the first axis, or the only one that may vary.
        BatchAxis::Found => {
            let called = symbols.iter().copied().find(|s| likely(s));
            called.or(at(0)).or(if let [one] = symbols[..] { Some(one) } else { None })
        }
    }
}

/// The dimension of the first input that may be the batch: its name and its axis.
#[must_use]
pub fn batch_dimension(graph: &Graph) -> Option<(String, usize)> {
    let symbol = batch_symbol(graph)?;
    let axis = graph.inputs.first()?.1.iter().position(|d| matches!(d, Dim::Symbol(s) if s == symbol))?;
    Some((symbol.to_string(), axis))
}

/// Dimensions besides the batch that the inputs leave open: their names, and input and axis of the first place of each.
#[must_use]
pub fn open_dimensions(graph: &Graph) -> Vec<(String, usize, usize)> {
    let batch = batch_symbol(graph);
    let place = |symbol: &str| {
        graph.inputs.iter().enumerate().find_map(|(i, (_, dims))| {
            let axis = dims.iter().position(|d| matches!(d, Dim::Symbol(s) if s == symbol))?;
            Some((symbol.to_string(), i, axis))
        })
    };
    symbols(graph).into_iter().filter(|s| Some(*s) != batch).filter_map(place).collect()
}

/// Finds them.
pub(super) fn axes(graph: &Graph) -> Result<Axes> {
    if graph.inputs.is_empty() {
        return Err(Error::Model("it has no input".into()));
    }
    let (symbols, symbol) = (symbols(graph), batch_symbol(graph));
    if let Some(other) = symbols.iter().find(|s| Some(**s) != symbol) {
        let input = graph.inputs.iter().find(|(_, dims)| dims.contains(&Dim::Symbol((*other).to_string())));
        let input = input.map_or("", |i| &i.0);
        return Err(Error::Open(format!(
            "input {input} has a symbolic dimension {other}; say what it is with --dim {other}=SIZE"
        )));
    }
    let places = |wanted: &dyn Fn(&Dim) -> bool| -> Option<Vec<usize>> {
        graph.inputs.iter().map(|(_, dims)| dims.iter().position(wanted)).collect()
    };
    if let Some(symbol) = symbol {
        let all = places(&|d: &Dim| matches!(d, Dim::Symbol(s) if s == symbol));
        return match all {
            Some(axes) => Ok(Axes::Symbol(axes)),
            None => {
                let without = graph.inputs.iter().find(|(_, dims)| !dims.contains(&Dim::Symbol(symbol.into())));
                let name = without.map_or("", |i| &i.0);
                Err(Error::Open(format!(
                    "input {name} lacks the batch {symbol} that others have; say what it is with --dim {symbol}=SIZE"
                )))
            }
        };
    }
    let at = match graph.batch_axis {
        BatchAxis::None => return Ok(Axes::None),
        BatchAxis::At(axis) => axis,
        BatchAxis::Found => 0,
    };
    let sizes: Vec<Option<&Dim>> = graph.inputs.iter().map(|(_, dims)| dims.get(at)).collect();
    match sizes[0] {
        Some(Dim::Fixed(n)) if sizes.iter().all(|s| *s == sizes[0]) => Ok(Axes::Exported(*n, vec![at; sizes.len()])),
        _ if graph.batch_axis == BatchAxis::Found => Ok(Axes::None),
        _ => Err(Error::Open(format!(
            "not all inputs have the same number of samples on axis {at}, as --batch-axis says"
        ))),
    }
}
