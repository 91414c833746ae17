//! The one executor: runs a compiled program over any protocol. It never sees a party index, a device or a socket.

use crate::network::Mask;
use crate::program::{Instruction, Op, Port, Program, Secret, SecretForm, Secrets, Slot, Travelled};
use crate::tensor::Tensor;
use crate::training::TrainingStep;
use crate::{Error, Result};
use sordino_mpc::{Local, Protocol, Role, Step, Width};
use sordino_ring::{Conv2d, IndexMap, Scale, Shape, encode};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// A value in the rings it has been needed in.
struct Held<A> {
    narrow: Option<A>,
    wide: Option<A>,
}

impl<A> Default for Held<A> {
    fn default() -> Self {
        Self { narrow: None, wide: None }
    }
}

/// A program with its weights shared and packed, ready to run many times.
pub struct Loaded<'p, P: Protocol> {
    program: &'p Program,
    weights: Vec<Option<P::Weight>>,
    tensors: Vec<Option<P::Arith>>,
    maps: Vec<Option<IndexMap>>,
    states: RefCell<Vec<P::Arith>>,
    /// Runs that are over, earlier sessions' included: the number of the next one.
    iteration: Cell<usize>,
    /// After which instruction each value is no longer needed.
    last_use: Vec<usize>,
    travelled: Travelled,
}

/// Encodes inputs, given in the model's own layout, as the program takes them.
///
/// # Errors
/// [`Error::Input`] for a missing input, another shape, or values that do not fit the calibrated range.
pub fn encode_inputs(program: &Program, inputs: &[Tensor]) -> Result<Vec<Vec<i64>>> {
    let encode = |(i, port): (usize, &Port)| match inputs.get(i) {
        Some(x) => encode_input(program, port, x),
        None => Err(Error::Input { name: port.name.clone(), why: "it is missing".into() }),
    };
    program.inputs.iter().enumerate().map(encode).collect()
}

/// Encodes one input.
///
/// # Errors
/// As for [`encode_inputs`].
pub fn encode_input(program: &Program, port: &Port, x: &Tensor) -> Result<Vec<i64>> {
    let fault = |why: String| Error::Input { name: port.name.clone(), why };
    if x.dims != port.dims {
        return Err(fault(format!("its shape is {:?} where the program takes {:?}", x.dims, port.dims)));
    }
    let raised = raised(port, x);
    let x = raised.as_ref().unwrap_or(x);
    if let Some(at) = x.data.iter().position(|v| f64::from(v.abs()) > port.limit || v.is_nan()) {
        let why = format!(
            "element {at} is {:.4e}, beyond the calibrated range of {:.4e}; whoever has the model must calibrate it with such inputs",
            x.data[at], port.limit
        );
        return Err(fault(why));
    }
    let laid = if x.dims.len() == 4 { x.permute(&[0, 2, 3, 1]) } else { x.clone() };
    let scale = Scale::new(port.scale).ok_or_else(|| fault("its scale is not positive".into()))?;
    let encoded = encode(&laid.data, scale, program.settings.narrow_bits).map_err(|e| fault(e.to_string()))?;
    // The integers count, which may have been rounded up to what the reals stay below.
    let quarter = 1i64 << (program.settings.narrow_bits - 2);
    match encoded.iter().position(|v| v.abs() >= quarter) {
        None => Ok(encoded),
        Some(at) => {
            let (value, limit) = (laid.data[at], port.limit);
            Err(fault(format!(
                "a value of {value:.6e} is not below the limit of {limit:.4e}; whoever has the model must calibrate it with such inputs"
            )))
        }
    }
}

/// The input with its columns brought to one size, where the program asks for it.
fn raised(port: &Port, x: &Tensor) -> Option<Tensor> {
    if port.columns.is_empty() || x.dims.get(1) != Some(&port.columns.len()) {
        return None;
    }
    let inner: usize = x.dims[2..].iter().product();
    let factor = |i: usize| 2f32.powi(port.columns[i / inner % port.columns.len()]);
    Some(Tensor::new(&x.dims, x.data.iter().enumerate().map(|(i, v)| v * factor(i)).collect()))
}

/// Decodes outputs into the model's own layout.
#[must_use]
pub fn decode_outputs(program: &Program, outputs: &[Vec<i64>]) -> Vec<Tensor> {
    let decode = |(port, v): (&Port, &Vec<i64>)| {
        Tensor::new(&port.dims, v.iter().map(|&v| (v as f64 / port.scale) as f32).collect())
    };
    program.outputs.iter().zip(outputs).map(decode).collect()
}

/// Decodes the integers of a training's states into the model's own layout.
#[must_use]
pub fn decode_states(program: &Program, step: &TrainingStep, integers: &[Vec<i64>]) -> Vec<Tensor> {
    let decode = |(i, v): (usize, &Vec<i64>)| {
        let scale = program.slots[program.states[i].read].scale;
        let data = v.iter().map(|&v| (v as f64 / scale) as f32).collect();
        match step.states[i].start.dims[..] {
            // Kernels are laid out with their input channels last.
            [o, c, h, w] => Tensor::new(&[o, h, w, c], data).permute(&[0, 3, 1, 2]),
            ref dims => Tensor::new(dims, data),
        }
    };
    integers.iter().enumerate().map(decode).collect()
}

/// The steps in which a run tells its receiver something.
pub struct Openings {
    /// The outputs, in order.
    pub outputs: Vec<Step>,
    /// Whether the values of each row were in range, of a program that watches.
    pub sound: Vec<Step>,
}

/// The steps in which a run that begins at `at` opens its outputs: for a receiver who was not there.
#[must_use]
pub fn openings(program: &Program, mut at: Step) -> Openings {
    for _ in &program.instructions {
        drop(at.child("step"));
    }
    if !program.inputs.is_empty() {
        drop(at.child("agree"));
    }
    let mut opening = || {
        drop(at.child("verify"));
        at.child("open")
    };
    let outputs = program.outputs.iter().map(|_| opening()).collect();
    Openings { outputs, sound: (0..program.guarded).map(|_| at.child("sound")).collect() }
}

/// The step in which a state is opened by [`Loaded::open_state`] at `at`: for an owner who was not there.
pub fn state_opening(mut at: Step) -> Step {
    drop((at.child("agree"), at.child("verify")));
    at.child("open")
}

/// Whether an output's integers are in the range that the program was compiled for.
#[must_use]
pub fn in_range(program: &Program, width: Width, integers: &[i64]) -> bool {
    let limit = 1u64 << (program.settings.narrow_bits - 2);
    width == Width::Wide || integers.iter().all(|v| v.unsigned_abs() < limit)
}

/// The ring that each output is opened in: the narrow one where a value has both.
///
/// # Errors
/// When the program cannot be run at all.
pub fn output_widths(program: &Program) -> Result<Vec<Width>> {
    let (plan, mut at) = (&sordino_mpc::Plan::new(program.settings), Step::root([0; 16]));
    let mut narrow = vec![false; program.slots.len()];
    let loaded = Loaded::load(plan, at.child("load"), program, None)?;
    loaded.run_seen(plan, at.child("run"), None, |_| (), |slot, x| narrow[slot] |= plan.width(x) == Width::Narrow)?;
    let width = |slot: Slot| if narrow[slot] { Width::Narrow } else { Width::Wide };
    Ok(program.outputs.iter().map(|o| width(o.slot)).collect())
}

impl<'p, P: Protocol> Loaded<'p, P> {
    /// Shares (at the model owner) or receives (elsewhere) the weights and packs them.
    ///
    /// # Errors
    /// Those of the protocol.
    pub fn load(p: &P, mut at: Step, program: &'p Program, secrets: Option<&Secrets>) -> Result<Self> {
        let mut weights = vec![];
        let mut tensors = vec![];
        for (i, form) in program.secrets.iter().enumerate() {
            let values = secrets.and_then(|s| s.0.get(i)).map(Secret::encoded);
            let values = values.as_deref();
            let step = at.child("secret");
            let (weight, tensor) = match form {
                SecretForm::Weight(op) => (Some(p.prepare(step, Role::ModelOwner, values, op)?), None),
                SecretForm::Tensor(shape) => (None, Some(p.input(step, Role::ModelOwner, values, shape)?)),
            };
            weights.push(weight);
            tensors.push(tensor);
        }
        let mut last_use = vec![0; program.slots.len()];
        for (i, instruction) in program.instructions.iter().enumerate() {
            for slot in instruction.op.operands().into_iter().chain([instruction.out]) {
                last_use[slot] = i;
            }
        }
        for slot in program.outputs.iter().map(|o| o.slot).chain(program.states.iter().map(|s| s.left)) {
            last_use[slot] = usize::MAX;
        }
        let maps = program
            .instructions
            .iter()
            .map(|i| match &i.op {
                Op::Gather { view, .. } => Some(view.map()),
                _ => None,
            })
            .collect();
        let mut states = vec![];
        for state in &program.states {
            states.push(match state.start {
                Some(start) => tensors[start].take().ok_or_else(missing)?,
                // Whoever holds them puts them in place; others follow along with what stands for them.
                None => {
                    let shape = &program.slots[state.read].shape;
                    p.constant(&vec![0; shape.len()], shape, Width::Wide)
                }
            });
        }
        let (states, iteration) = (RefCell::new(states), Cell::new(0));
        let travelled = Travelled::new(&program.rates);
        Ok(Self { program, weights, tensors, maps, states, iteration, last_use, travelled })
    }

    /// Runs once. `inputs` are the encoded inputs at the data owner; `watch` is told each layer before it starts.
    /// The receiver gets the outputs' integers; everybody else gets `None` for each.
    ///
    /// # Errors
    /// Those of the protocol.
    pub fn run(
        &self,
        p: &P,
        at: Step,
        inputs: Option<&[Vec<i64>]>,
        watch: impl FnMut(usize),
    ) -> Result<Vec<Option<Vec<i64>>>> {
        self.run_seen(p, at, inputs, watch, |_, _| ())
    }

    /// The same; `see` is shown what becomes of every slot, as a party holds it.
    ///
    /// # Errors
    /// Those of the protocol.
    pub fn run_seen(
        &self,
        p: &P,
        mut at: Step,
        inputs: Option<&[Vec<i64>]>,
        mut watch: impl FnMut(usize),
        mut see: impl FnMut(Slot, &P::Arith),
    ) -> Result<Vec<Option<Vec<i64>>>> {
        p.run_begins();
        let mut held: Vec<Held<P::Arith>> = self.program.slots.iter().map(|_| Held::default()).collect();
        let mut bits: Vec<Option<P::Bit>> = (0..self.program.bits).map(|_| None).collect();
        let mut layer = usize::MAX;
        for (i, instruction) in self.program.instructions.iter().enumerate() {
            if instruction.layer != layer {
                layer = instruction.layer;
                watch(layer);
            }
            let result = self.step(p, at.child("step"), i, instruction, &held, &mut bits, inputs)?;
            see(instruction.out, &result);
            let entry = &mut held[instruction.out];
            match p.width(&result) {
                Width::Narrow => entry.narrow = Some(result),
                Width::Wide => entry.wide = Some(result),
            }
            for slot in instruction.op.operands() {
                if self.last_use[slot] == i {
                    held[slot] = Held::default();
                }
            }
        }
        if self.program.layers.len() > layer.wrapping_add(1) {
            watch(self.program.layers.len() - 1);
        }
        self.iteration.set(self.iteration.get() + 1);
        let mut states = self.states.borrow_mut();
        for (state, value) in self.program.states.iter().zip(states.iter_mut()) {
            *value = held[state.left].wide.clone().ok_or_else(missing)?;
        }
        drop(states);
        // Nothing that depends on inputs is opened or kept before ends know that they were given copies of the same ones.
        if !self.program.inputs.is_empty() {
            p.agree(at.child("agree"), &[])?;
        }
        let mut outputs = vec![];
        let mut sound = true;
        for output in &self.program.outputs {
            let value = match &held[output.slot] {
                Held { narrow: Some(x), .. } | Held { wide: Some(x), .. } => x.clone(),
                _ => return Err(missing()),
            };
            let width = p.width(&value);
            let checked = p.verify(at.child("verify"), value)?;
            let opened = p.open(at.child("open"), checked, Role::Receiver)?;
            sound &= opened.as_ref().is_none_or(|v| in_range(self.program, width, v));
            outputs.push(opened);
        }
        let rows = self.program.guarded;
        let mut told = false;
        for row in 0..rows {
            if let Some(row) = p.sound(at.child("sound"), [row, rows], Role::Receiver)? {
                (told, sound) = (true, sound && row);
            }
        }
        // Where nothing is told, values are in the clear, and whoever runs them there looks at them.
        if told && !sound { Err(sordino_mpc::Error::OutOfRange.into()) } else { Ok(outputs) }
    }

    /// The states as the last run left them.
    pub fn states(&self) -> Vec<P::Arith> {
        self.states.borrow().clone()
    }

    /// Ends compare copies of the weights they were given. By itself, so that it can wait until all have theirs.
    ///
    /// # Errors
    /// When the owner's shares do not fit together; lost peers.
    pub fn agree(&self, p: &P, at: Step) -> Result<()> {
        Ok(p.agree(at, &[])?)
    }

    /// Goes on as so many runs have left the states: at ends that keep shares with these in their place, elsewhere with
    /// what stands for them.
    ///
    /// # Errors
    /// When the ends' shares do not fit together; lost peers.
    pub fn resume(&self, p: &P, at: Step, kept: Option<Vec<P::Arith>>, iteration: usize) -> Result<()> {
        if let Some(states) = kept {
            *self.states.borrow_mut() = states;
        }
        self.iteration.set(iteration);
        p.agree(at, &self.states.borrow().iter().collect::<Vec<_>>())?;
        Ok(())
    }

    /// Opens a state to its owner, who gets the integers; everybody else gets `None`.
    ///
    /// # Errors
    /// Those of the protocol.
    pub fn open_state(&self, p: &P, mut at: Step, state: usize) -> Result<Option<Vec<i64>>> {
        let value = self.states.borrow().get(state).cloned().ok_or_else(missing)?;
        p.agree(at.child("agree"), &[&value])?;
        let checked = p.verify(at.child("verify"), value)?;
        Ok(p.open(at.child("open"), checked, Role::ModelOwner)?)
    }

    #[expect(clippy::too_many_arguments, reason = "what a step may read")]
    fn step(
        &self,
        p: &P,
        at: Step,
        index: usize,
        instruction: &Instruction,
        held: &[Held<P::Arith>],
        bits: &mut [Option<P::Bit>],
        inputs: Option<&[Vec<i64>]>,
    ) -> Result<P::Arith> {
        let info = &self.program.slots[instruction.out];
        let shape = &info.shape;
        let wide = |slot: Slot| held[slot].wide.clone().ok_or_else(missing);
        let narrow = |slot: Slot| match &held[slot] {
            Held { narrow: Some(x), .. } => Ok(x.clone()),
            Held { wide: Some(x), .. } => Ok(p.local(&Local::Low, &[x])?),
            _ => Err(missing()),
        };
        // Local steps work in the ring their result is needed in.
        let either = |slot: Slot| if info.wide { wide(slot) } else { narrow(slot) };
        let unary = |op: &Local<'_>, x: Slot| -> Result<P::Arith> { Ok(p.local(op, &[&either(x)?])?) };
        let map = || self.maps[index].as_ref().ok_or_else(missing);
        Ok(match &instruction.op {
            Op::Input(i) => {
                let values = inputs.and_then(|v| v.get(*i)).map(Vec::as_slice);
                p.input(at, Role::DataOwner(self.program.inputs[*i].owner), values, shape)?
            }
            Op::Secret(i) => self.tensors[*i].clone().ok_or_else(missing)?,
            Op::Linear { terms, bias, shift } => {
                let xs = terms.iter().map(|(x, ..)| wide(*x)).collect::<Result<Vec<_>>>()?;
                let mut operands = vec![];
                for (x, (_, w, op)) in xs.iter().zip(terms) {
                    operands.push((x, self.weights[*w].as_ref().ok_or_else(missing)?, *op));
                }
                let bias = bias.map(wide).transpose()?;
                let y = match shift {
                    Some(shift) => p.linear(at, &operands, bias.as_ref(), *shift)?,
                    None => p.linear_wide(at, &operands, bias.as_ref())?,
                };
                p.local(&Local::Reshape(shape.clone()), &[&y])?
            }
            Op::Mul { x, y, bias, shift } => {
                let bias = bias.map(wide).transpose()?;
                p.mul(at, &wide(*x)?, &wide(*y)?, bias.as_ref(), *shift)?
            }
            Op::Rescale { x, factor, shift } => {
                let scaled = p.local(&Local::Scale(*factor), &[&wide(*x)?])?;
                p.truncate(at, &scaled, *shift)?
            }
            Op::MulPublic { x, factors, shift } => {
                let factors = p.constant(factors, shape, Width::Wide);
                p.mul(at, &wide(*x)?, &factors, None, *shift)?
            }
            Op::State(i) => self.states.borrow().get(*i).cloned().ok_or_else(missing)?,
            Op::Product { terms, bias, shift } => {
                let mut operands = vec![];
                for (x, w, conv) in terms {
                    let x = p.local(&Local::Reshape(conv.input()), &[&wide(*x)?])?;
                    operands.push((x, p.pack(&wide(*w)?, conv)?, *conv));
                }
                let operands: Vec<_> = operands.iter().map(|(x, w, conv)| (x, w, *conv)).collect();
                let bias = bias.map(wide).transpose()?;
                let y = p.linear(at, &operands, bias.as_ref(), *shift)?;
                p.local(&Local::Reshape(shape.clone()), &[&y])?
            }
            Op::WeightGradient { x, dy, conv, bias, shift } => {
                let bias = bias.map(wide).transpose()?;
                let y = p.weight_gradient(at, &wide(*x)?, &wide(*dy)?, conv, bias.as_ref(), *shift)?;
                p.local(&Local::Reshape(shape.clone()), &[&y])?
            }
            Op::Descend { w, v, per_rate } => {
                let factor = self.travelled.units(self.iteration.get(), *per_rate);
                p.local(&Local::Sub, &[&wide(*w)?, &p.local(&Local::Scale(factor), &[&wide(*v)?])?])?
            }
            Op::Dropout { x, mask, dims } => {
                let map = dropout(mask, self.iteration.get(), dims, shape);
                unary(&Local::Gather(&map, 0), *x)?
            }
            Op::Relu { x, shift, wide: out, keep } => {
                let (y, bit) = match shift {
                    Some(shift) => p.relu_truncated(at, &wide(*x)?, *shift, width(*out))?,
                    None => p.relu_with_bit(at, &narrow(*x)?, width(*out))?,
                };
                if let Some(i) = keep {
                    bits[*i] = Some(bit);
                }
                y
            }
            Op::Select { x, bit, wide } => {
                let bit = bits[*bit].as_ref().ok_or_else(missing)?;
                p.select(at, bit, &narrow(*x)?, width(*wide))?
            }
            Op::Max { x, y, keep } => {
                let (y, bit) = p.max_with_bit(at, &narrow(*x)?, &narrow(*y)?)?;
                if let Some(i) = keep {
                    bits[*i] = Some(bit);
                }
                y
            }
            Op::Watch { x, rows } => {
                p.watch(at, &narrow(*x)?, *rows)?;
                // The operand as it is held: whether it is needed in the narrow ring is not up to the guard.
                held[*x].wide.clone().or_else(|| held[*x].narrow.clone()).ok_or_else(missing)?
            }
            Op::Flip { x, signs } => p.flip(at, &narrow(*x)?, &wide(*signs)?)?,
            Op::Extend { x } => p.extend(at, &narrow(*x)?)?,
            Op::Piecewise { x, thresholds, functions, watched } => {
                let ends = watched.unwrap_or_default();
                p.piecewise_watched(at, &narrow(*x)?, thresholds, functions, ends)?
            }
            Op::Row { x, row, addend } => {
                let (rows, n) = (wide(*x)?, shape.len());
                if p.shape(&rows).dims().split_first().is_none_or(|(first, rest)| row >= first || rest != shape.dims())
                {
                    return Err(missing());
                }
                let source = Arc::new((row * n..(row + 1) * n).map(|i| i as u32).collect());
                let row = p.local(&Local::Gather(&IndexMap { source, shape: shape.clone() }, 0), &[&rows])?;
                p.local(&Local::Offset(*addend), &[&row])?
            }
            Op::Add { x, y } => p.local(&Local::Add, &[&either(*x)?, &either(*y)?])?,
            Op::Sub { x, y } => p.local(&Local::Sub, &[&either(*x)?, &either(*y)?])?,
            Op::Scale { x, factor } => unary(&Local::Scale(*factor), *x)?,
            Op::Offset { x, addend } => unary(&Local::Offset(*addend), *x)?,
            Op::Reshape { x, .. } => unary(&Local::Reshape(shape.clone()), *x)?,
            Op::Gather { x, fill, .. } => unary(&Local::Gather(map()?, *fill), *x)?,
            Op::Concat { xs, outer, widths, .. } => {
                let xs = xs.iter().map(|&x| either(x)).collect::<Result<Vec<_>>>()?;
                let op = Local::Concat { outer: *outer, widths: widths.clone(), shape: shape.clone() };
                p.local(&op, &xs.iter().collect::<Vec<_>>())?
            }
            Op::WindowSum { x, windows } => {
                let y = unary(&Local::WindowSum(*windows), *x)?;
                p.local(&Local::Reshape(shape.clone()), &[&y])?
            }
        })
    }
}

/// What a mask keeps of a value, whose own dimensions are those of the model.
fn dropout(mask: &Mask, iteration: usize, dims: &[usize], shape: &Shape) -> IndexMap {
    let kept = mask.kept(iteration as u32, dims.iter().product());
    let keep = |at: usize, own: usize| if kept[own] { at as u32 } else { sordino_ring::PAD };
    let source = match dims {
        // Laid out with the channels last.
        [_, c, h, w] => (0..kept.len())
            .map(|at| keep(at, ((at / (h * w * c) * c + at % c) * h + at / (w * c) % h) * w + at / c % w))
            .collect(),
        _ => (0..kept.len()).map(|at| keep(at, at)).collect(),
    };
    IndexMap { source: Arc::new(source), shape: shape.clone() }
}

fn width(wide: bool) -> Width {
    if wide { Width::Wide } else { Width::Narrow }
}

fn missing() -> Error {
    Error::Protocol(sordino_mpc::Error::Usage("a compiled step reads a value that no earlier step made".into()))
}

/// Multiplications of a program's linear layers, for progress and estimates.
#[must_use]
pub fn macs(program: &Program) -> u64 {
    let terms = program.instructions.iter().filter_map(|i| match &i.op {
        Op::Linear { terms, .. } => Some(terms.iter().map(|t| Conv2d::macs(&t.2)).sum::<u64>()),
        Op::Product { terms, .. } => Some(terms.iter().map(|t| t.2.macs()).sum()),
        Op::WeightGradient { conv, .. } => Some(conv.macs()),
        _ => None,
    });
    terms.sum()
}
