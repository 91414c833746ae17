//! Operators that put elements elsewhere by public indices: one list of places, whatever the operator.

use super::{Attributes, Importer, Known, axis, fault};
use crate::Result;
use crate::fold::{self, Moved};
use crate::graph::Node;
use crate::limits::elements;
use crate::network::Layer;
use crate::tensor::{Constant, Tensor};
use sordino_ring::{IndexMap, PAD};
use std::sync::Arc;

impl Importer<'_> {
    /// Moves the elements of a computed value; false when the operator does not.
    pub(super) fn moved(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<bool> {
        let Some(Known::Value(x)) = self.known(node, 0)? else { return Ok(false) };
        let dims = self.dims(x);
        if matches!(node.op.as_str(), "ScatterElements" | "ScatterND") {
            return self.scattered(node, attrs).map(|()| true);
        }
        if node.op == "Expand" {
            let out = self.expanded(node, &dims)?;
            return self.push_output(node, 0, Layer::Broadcast, vec![x], &out).map(|()| true);
        }
        let Some(Moved { source, dims: out, fill }) = self.places(node, attrs, &dims)? else { return Ok(false) };
        self.charge(node, source.len())?;
        self.push_output(node, 0, Layer::Gather { source: Arc::new(source), fill }, vec![x], &out)?;
        Ok(true)
    }

    /// The places of an operator on an operand of these dimensions; `None` when it moves nothing by indices.
    pub(super) fn places(&self, node: &Node, attrs: &Attributes<'_>, dims: &[usize]) -> Result<Option<Moved>> {
        let rank = dims.len();
        let ints = |i: usize| -> Result<Vec<i64>> {
            match self.ints(node, i)? {
                Some(v) => Ok(v),
                None => fault(node, format!("input {i} is missing")),
            }
        };
        let m = match node.op.as_str() {
            "Expand" => moved(IndexMap::broadcast(dims, &self.expanded(node, dims)?)),
            "Gather" => {
                let at = axis(node, attrs.int("axis", 0), rank)?;
                let places = self.indices(node, 1, dims[at])?;
                let of = self.constant(node, 1)?.map(|c| c.dims().to_vec()).unwrap_or_default();
                let out = [&dims[..at], &of, &dims[at + 1..]].concat();
                self.room(node, &out)?;
                let inner: usize = dims[at + 1..].iter().product();
                let outer: usize = dims[..at].iter().product();
                let block = |o: usize, i: usize| (0..inner).map(move |j| ((o * dims[at] + i) * inner + j) as u32);
                let source = (0..outer).flat_map(|o| places.iter().flat_map(move |&i| block(o, i))).collect();
                Moved { source, dims: out, fill: 0.0 }
            }
            "GatherElements" => {
                let at = axis(node, attrs.int("axis", 0), rank)?;
                let places = self.indices(node, 1, dims[at])?;
                let out = self.constant(node, 1)?.map(|c| c.dims().to_vec()).unwrap_or_default();
                if out.len() != rank || (0..rank).any(|a| a != at && out[a] > dims[a]) {
                    return fault(node, format!("indices of {out:?} do not fit {dims:?}"));
                }
                let mut next = places.into_iter();
                moved(IndexMap::build(&out, |c| {
                    let i = next.next()?;
                    Some((0..rank).fold(0, |p, a| p * dims[a] + if a == at { i } else { c[a] }))
                }))
            }
            "GatherND" => self.gather_nd(node, attrs, dims)?,
            "Tile" => {
                let times = ints(1)?;
                if times.len() != rank || times.iter().any(|&t| t < 1) {
                    return fault(node, format!("repeats {times:?} do not fit {dims:?}"));
                }
                let size = |(&d, &t): (&usize, &i64)| d.saturating_mul(usize::try_from(t).unwrap_or(usize::MAX));
                let out: Vec<usize> = dims.iter().zip(&times).map(size).collect();
                self.room(node, &out)?;
                moved(IndexMap::build(&out, |c| Some((0..rank).fold(0, |p, a| p * dims[a] + c[a] % dims[a]))))
            }
            "DepthToSpace" | "SpaceToDepth" => self.blocks(node, attrs, dims)?,
            "Pad" => self.reflected(node, attrs, dims)?,
            "Trilu" => {
                let k = match self.ints(node, 1)? {
                    Some(k) if k.len() == 1 => k[0],
                    Some(_) => return fault(node, "k must be one integer"),
                    None => 0,
                };
                let upper = attrs.int("upper", 1) != 0;
                let [.., _, _] = *dims else { return fault(node, format!("{dims:?} is no matrix")) };
                moved(IndexMap::build(dims, |c| {
                    let off = c[rank - 1] as i64 - c[rank - 2] as i64;
                    let kept = if upper { off >= k } else { off <= k };
                    kept.then(|| (0..rank).fold(0, |p, a| p * dims[a] + c[a]))
                }))
            }
            "ReverseSequence" => {
                let (batch, time) =
                    (axis(node, attrs.int("batch_axis", 1), rank)?, axis(node, attrs.int("time_axis", 0), rank)?);
                let lengths = ints(1)?;
                let fits = |&l: &i64| (0..=dims[time] as i64).contains(&l);
                if lengths.len() != dims[batch] || !lengths.iter().all(fits) {
                    return fault(node, format!("lengths {lengths:?} do not fit {dims:?}"));
                }
                moved(IndexMap::build(dims, |c| {
                    let length = lengths[c[batch]] as usize;
                    let at = if c[time] < length { length - 1 - c[time] } else { c[time] };
                    Some((0..rank).fold(0, |p, a| p * dims[a] + if a == time { at } else { c[a] }))
                }))
            }
            "Compress" => {
                let kept: Vec<usize> = (0..).zip(ints(1)?).filter(|(_, keep)| *keep != 0).map(|(i, _)| i).collect();
                let flat = [dims.iter().product::<usize>()];
                let (dims, at) = match node.attributes.contains_key("axis") {
                    true => (dims, axis(node, attrs.int("axis", 0), rank)?),
                    false => (&flat[..], 0),
                };
                if kept.iter().any(|&i| i >= dims[at]) {
                    return fault(node, "its condition is longer than the axis");
                }
                let mut out = dims.to_vec();
                out[at] = kept.len();
                moved(IndexMap::build(&out, |c| {
                    Some((0..dims.len()).fold(0, |p, a| p * dims[a] + if a == at { kept[c[a]] } else { c[a] }))
                }))
            }
            _ => return Ok(None),
        };
        Ok(Some(m))
    }

    /// The dimensions that an operand is expanded to.
    fn expanded(&self, node: &Node, dims: &[usize]) -> Result<Vec<usize>> {
        let Some(target) = self.ints(node, 1)? else { return fault(node, "input 1 is missing") };
        let target: Option<Vec<usize>> = target.into_iter().map(|d| usize::try_from(d).ok()).collect();
        let Some(out) = target.and_then(|t| fold::broadcast(dims, &t)) else {
            return fault(node, "the shape does not fit");
        };
        self.room(node, &out)?;
        Ok(out)
    }

    /// Room for so many places.
    fn room(&self, node: &Node, dims: &[usize]) -> Result<()> {
        match elements(dims) {
            Some(n) if n <= self.left.get() => Ok(()),
            _ => fault(node, fold::LARGE),
        }
    }

    /// Public indices into an axis, counted from its end when negative.
    fn indices(&self, node: &Node, i: usize, len: usize) -> Result<Vec<usize>> {
        let Some(indices) = self.ints(node, i)? else { return fault(node, "the indices are missing") };
        let all: Option<Vec<usize>> = indices.iter().map(|&i| wrapped(i, len)).collect();
        all.map_or_else(|| fault(node, "an index lies outside its axis"), Ok)
    }

    fn gather_nd(&self, node: &Node, attrs: &Attributes<'_>, dims: &[usize]) -> Result<Moved> {
        let (Some(which), Some(indices)) = (self.constant(node, 1)?, self.ints(node, 1)?) else {
            return fault(node, "the indices are missing");
        };
        let shared = usize::try_from(attrs.int("batch_dims", 0)).unwrap_or(usize::MAX);
        let of = which.dims().to_vec();
        let Some(&depth) = of.last() else { return fault(node, "its indices have no axis") };
        let fits = shared < of.len() && shared.saturating_add(depth) <= dims.len() && of[..shared] == dims[..shared];
        if !fits || depth == 0 {
            return fault(node, format!("indices of {of:?} do not fit {dims:?}"));
        }
        let out = [&of[..of.len() - 1], &dims[shared + depth..]].concat();
        self.room(node, &out)?;
        let inner: usize = dims[shared + depth..].iter().product();
        let per_batch: usize = of[shared..of.len() - 1].iter().product();
        let mut source = vec![];
        for (row, index) in indices.chunks_exact(depth).enumerate() {
            let mut place = row.checked_div(per_batch).unwrap_or(0);
            for (&i, &d) in index.iter().zip(&dims[shared..]) {
                let at = wrapped(i, d);
                let Some(at) = at else { return fault(node, "an index lies outside its axis") };
                place = place * d + at;
            }
            source.extend((0..inner).map(|j| (place * inner + j) as u32));
        }
        Ok(Moved { source, dims: out, fill: 0.0 })
    }

    fn blocks(&self, node: &Node, attrs: &Attributes<'_>, dims: &[usize]) -> Result<Moved> {
        let b = usize::try_from(attrs.int("blocksize", 0)).unwrap_or(0);
        let [n, c, h, w] = *dims else { return fault(node, format!("{dims:?} is no picture")) };
        if b == 0 || b > 1 << 14 {
            return fault(node, "its block size must be positive");
        }
        let deep = node.op == "DepthToSpace";
        let fits = if deep { c % (b * b) == 0 } else { h % b == 0 && w % b == 0 };
        if !fits {
            return fault(node, format!("blocks of {b} do not fit {dims:?}"));
        }
        let column_first = attrs.text("mode") == "CRD";
        let out = if deep { [n, c / (b * b), h * b, w * b] } else { [n, c * b * b, h / b, w / b] };
        Ok(moved(IndexMap::build(&out, |i| {
            let (channel, y, x) = if deep {
                let (dy, dx) = (i[2] % b, i[3] % b);
                let block = dy * b + dx;
                let from = if column_first { i[1] * b * b + block } else { block * out[1] + i[1] };
                (from, i[2] / b, i[3] / b)
            } else {
                let block = i[1] / c;
                (i[1] % c, i[2] * b + block / b, i[3] * b + block % b)
            };
            Some(((i[0] * c + channel) * h + y) * w + x)
        })))
    }

    /// Padding of constants, and padding that repeats what is there.
    fn reflected(&self, node: &Node, attrs: &Attributes<'_>, dims: &[usize]) -> Result<Moved> {
        let pads = self.pads(node, attrs, dims.len())?;
        let mode = attrs.text("mode");
        let rank = dims.len();
        if matches!(mode, "" | "constant") {
            let size = |a: usize| usize::try_from(dims[a] as i64 + pads[a] + pads[a + rank]).unwrap_or(0);
            let out: Vec<usize> = (0..rank).map(size).collect();
            self.room(node, &out)?;
            let start: Vec<isize> = pads[..rank].iter().map(|&p| -(p as isize)).collect();
            let map = IndexMap::window(dims, &start, &vec![1; rank], &out);
            return Ok(Moved { fill: self.pad_fill(node, attrs)?, ..moved(map) });
        }
        let mut out = vec![];
        for (a, &d) in dims.iter().enumerate() {
            let (before, after) = (pads[a], pads[a + rank]);
            let most = match mode {
                "reflect" => d as i64 - 1,
                "wrap" => d as i64,
                _ => 1 << 20,
            };
            if before.max(after) > most {
                return fault(node, format!("pads {pads:?} do not fit {dims:?} when mode is {mode}"));
            }
            out.push(usize::try_from(d as i64 + before + after).unwrap_or(0));
        }
        self.room(node, &out)?;
        Ok(moved(IndexMap::build(&out, |c| {
            Some((0..rank).fold(0, |p, a| {
                let (d, at) = (dims[a] as i64, c[a] as i64 - pads[a]);
                let from = match mode {
                    "edge" => at.clamp(0, d - 1),
                    "wrap" => at.rem_euclid(d),
                    _ if at < 0 => -at,
                    _ if at >= d => 2 * (d - 1) - at,
                    _ => at,
                };
                p * dims[a] + from as usize
            }))
        })))
    }

    /// Where(condition, x, y) with a public condition chooses between them; with a computed one it is y + c (x - y).
    pub(super) fn pick(&mut self, node: &Node) -> Result<()> {
        let (Some(condition), Some(x), Some(y)) = (self.known(node, 0)?, self.known(node, 1)?, self.known(node, 2)?)
        else {
            return fault(node, "an operand is missing");
        };
        let shape = |k: &Known| match k {
            Known::Value(id) => self.dims(*id),
            Known::Constant(c) => c.dims().to_vec(),
        };
        let all = [shape(&condition), shape(&x), shape(&y)];
        let broadcast = fold::broadcast(&all[0], &all[1]).and_then(|d| fold::broadcast(&d, &all[2]));
        let Some(out) = broadcast else { return fault(node, format!("shapes {all:?} do not broadcast")) };
        self.room(node, &out)?;
        let Known::Constant(condition) = condition else {
            return self.pick_computed(node, condition, x, y, &out);
        };
        let Constant::Int(_, bits) = &*condition else { return fault(node, "its condition must be booleans") };
        let at = IndexMap::broadcast(condition.dims(), &out).source;
        let chosen: Vec<bool> = at.iter().map(|&i| bits[i as usize] != 0).collect();
        // Each part where it is chosen, zero elsewhere; a constant number is what is filled in.
        let mut fill = 0.0;
        let mut parts = vec![];
        let mut constant: Option<Tensor> = None;
        for (known, wanted) in [(x, true), (y, false)] {
            match known {
                Known::Value(id) => {
                    let from = IndexMap::broadcast(&self.dims(id), &out).source;
                    let keep = |(&s, &c): (&u32, &bool)| if c == wanted { s } else { PAD };
                    parts.push((id, from.iter().zip(&chosen).map(keep).collect::<Vec<u32>>()));
                }
                Known::Constant(c) => {
                    let t = fold::as_float(&c);
                    if t.data.windows(2).all(|v| v[0] == v[1]) {
                        fill = t.data.first().copied().unwrap_or(0.0);
                        continue;
                    }
                    let from = IndexMap::broadcast(&t.dims, &out).source;
                    let keep = |(&s, &c): (&u32, &bool)| if c == wanted { t.data[s as usize] } else { 0.0 };
                    constant = Some(Tensor::new(&out, from.iter().zip(&chosen).map(keep).collect()));
                }
            }
        }
        self.charge(node, parts.len() * chosen.len())?;
        let mut sum = None;
        for (id, source) in parts {
            let part = self.inner(node, Layer::Gather { source: Arc::new(source), fill }, vec![id], &out)?;
            sum = Some(match sum {
                None => part,
                Some(other) => self.both(node, Layer::Add, other, part)?,
            });
        }
        let Some(mut sum) = sum else { return fault(node, "it has no computed operand") };
        if let Some(c) = constant {
            if c.data.iter().any(|v| !v.is_finite()) {
                return fault(node, "its constant must be finite floats");
            }
            self.charge(node, c.data.len())?;
            sum = self.like(node, Layer::AddConst(Arc::new(c)), sum)?;
        }
        self.alias(node, sum);
        Ok(())
    }

    fn pick_computed(&mut self, node: &Node, condition: Known, x: Known, y: Known, out: &[usize]) -> Result<()> {
        let Known::Value(c) = condition else { return fault(node, "its condition is not computed") };
        let c = self.broadcast_to(node, c, out)?;
        // Both constants: y + c (x - y) is still a product and a sum with constants.
        let [one, other] = [as_floats(&x), as_floats(&y)];
        let difference = match (&x, &y) {
            (Known::Constant(a), Known::Constant(b)) => {
                let pair = [Some(Arc::clone(a)), Some(Arc::clone(b))];
                let minus = Node { op: "Sub".into(), ..node.clone() };
                match fold::elementwise(&minus, &pair, self.left.get())? {
                    Some(d) => Known::Constant(Arc::new(Constant::Float(Arc::new(fold::as_float(&d))))),
                    None => return fault(node, "its constants have no difference"),
                }
            }
            _ => Known::Value(self.computed(node, "Sub", one, other)?),
        };
        let product = self.computed(node, "Mul", Known::Value(c), difference)?;
        let product = self.broadcast_to(node, product, out)?;
        let y = as_floats(&y);
        let sum = self.computed(node, "Add", Known::Value(product), y)?;
        self.alias(node, sum);
        Ok(())
    }

    /// Constant updates at public places.
    fn scattered(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let n: usize = dims.iter().product();
        let (Some(at), Some(indices)) = (self.constant(node, 1)?, self.ints(node, 1)?) else {
            return fault(node, "the indices are missing");
        };
        let updates = self.weights(node, 2)?;
        let mut places = vec![];
        if node.op == "ScatterND" {
            let depth = at.dims().last().copied().unwrap_or(0);
            if depth == 0 || depth > dims.len() {
                return fault(node, "its indices do not fit");
            }
            let inner: usize = dims[depth..].iter().product();
            for index in indices.chunks_exact(depth) {
                let mut place = 0;
                for (&i, &d) in index.iter().zip(&dims) {
                    let at = wrapped(i, d);
                    let Some(at) = at else { return fault(node, "an index lies outside its axis") };
                    place = place * d + at;
                }
                places.extend((0..inner).map(|j| place * inner + j));
            }
        } else {
            let along = axis(node, attrs.int("axis", 0), dims.len())?;
            let indices = self.indices(node, 1, dims[along])?;
            let of = at.dims();
            if of.len() != dims.len() || (0..of.len()).any(|a| a != along && of[a] > dims[a]) {
                return fault(node, "its indices do not fit");
            }
            let mut next = indices.into_iter();
            let map = IndexMap::build(of, |c| {
                let i = next.next()?;
                Some((0..dims.len()).fold(0, |p, a| p * dims[a] + if a == along { i } else { c[a] }))
            });
            places = map.source.iter().map(|&s| s as usize).collect();
        }
        if places.len() != updates.data.len() {
            return fault(node, format!("{} updates for {} places", updates.data.len(), places.len()));
        }
        self.charge(node, 2 * n)?;
        let mut source: Vec<u32> = (0..n as u32).collect();
        let mut added = vec![0.0; n];
        for (place, &v) in places.into_iter().zip(&updates.data) {
            (source[place], added[place]) = (PAD, v);
        }
        let kept = self.inner(node, Layer::Gather { source: Arc::new(source), fill: 0.0 }, vec![x], &dims)?;
        self.push_output(node, 0, Layer::AddConst(Arc::new(Tensor::new(&dims, added))), vec![kept], &dims)
    }
}

/// The same, constants as floats.
fn as_floats(known: &Known) -> Known {
    match known {
        Known::Constant(c) => Known::Constant(Arc::new(Constant::Float(Arc::new(fold::as_float(c))))),
        Known::Value(id) => Known::Value(*id),
    }
}

/// A place on an axis, counted from its end when negative.
fn wrapped(i: i64, len: usize) -> Option<usize> {
    usize::try_from(if i < 0 { i.saturating_add(len as i64) } else { i }).ok().filter(|&i| i < len)
}

fn moved(map: IndexMap) -> Moved {
    Moved { dims: map.shape.dims().to_vec(), source: Arc::unwrap_or_clone(map.source), fill: 0.0 }
}
