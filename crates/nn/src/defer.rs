//! Truncation put off until behind the ReLU that follows, where one comparison does both: for protocols whose products are
//! shared wide anyway (CrypTFlow2, ePrint 2020/1002, section 5.4, its order turned round).
//!
//! `Linear -> (Reshape | Gather | Concat | Add of a wide value)* -> Relu` becomes a product that is not truncated, the same
//! steps at its scale, and a ReLU that truncates its operand first. Integers stay what they were:
//! floor((z + half) / 2^s) + y = floor((z + half + 2^s y) / 2^s), and moving elements does not change them.

use crate::program::{Op, Program, Slot};
use std::collections::{BTreeMap, BTreeSet};

/// The instructions from products to a ReLU, and what must be scaled on the way.
#[derive(Default)]
struct Chain {
    shift: Option<u32>,
    /// Instructions whose results become wide.
    steps: BTreeSet<usize>,
    /// Instructions whose second operand, or fill, is brought to the product's scale.
    scaled: BTreeSet<usize>,
}

struct Uses {
    /// The instruction that makes a slot, if there is just one.
    maker: BTreeMap<Slot, usize>,
    /// Instructions that read a slot; outputs and states count as well.
    readers: BTreeMap<Slot, usize>,
}

impl Uses {
    fn of(program: &Program) -> Self {
        let (mut makers, mut readers) = (BTreeMap::<Slot, Vec<usize>>::new(), BTreeMap::new());
        for (i, instruction) in program.instructions.iter().enumerate() {
            makers.entry(instruction.out).or_default().push(i);
            for slot in instruction.op.operands() {
                *readers.entry(slot).or_insert(0) += 1;
            }
        }
        let kept = program.outputs.iter().map(|o| o.slot);
        for slot in kept.chain(program.states.iter().flat_map(|s| [s.read, s.left])) {
            *readers.entry(slot).or_insert(0) += 1;
        }
        let maker = makers.into_iter().filter(|(_, all)| all.len() == 1).map(|(slot, all)| (slot, all[0])).collect();
        Self { maker, readers }
    }
}

/// Follows a ReLU's operand back to the products it comes from; `None` where truncation cannot wait.
fn follow(program: &Program, uses: &Uses, slot: Slot, chain: &mut Chain) -> Option<()> {
    let &at = uses.maker.get(&slot)?;
    if uses.readers.get(&slot) != Some(&1) {
        return None;
    }
    match &program.instructions[at].op {
        Op::Linear { shift: Some(shift), .. } if chain.shift.is_none_or(|s| s == *shift) => chain.shift = Some(*shift),
        Op::Reshape { x, .. } => follow(program, uses, *x, chain)?,
        Op::Gather { x, fill, .. } => {
            if *fill != 0 {
                chain.scaled.insert(at);
            }
            follow(program, uses, *x, chain)?;
        }
        Op::Concat { xs, .. } => xs.iter().try_for_each(|x| follow(program, uses, *x, chain))?,
        // What is added must be wide already: extending it would cost a comparison.
        Op::Add { x, y } if program.slots[*y].wide && x != y && !program.slots[slot].wide => {
            chain.scaled.insert(at);
            follow(program, uses, *x, chain)?;
        }
        _ => return None,
    }
    chain.steps.insert(at);
    Some(())
}

/// Applies the pass.
pub(crate) fn defer(program: &mut Program) {
    let uses = Uses::of(program);
    let mut additions: Vec<(usize, Slot, i64)> = vec![];
    for relu in 0..program.instructions.len() {
        let Op::Relu { x, shift: None, .. } = program.instructions[relu].op else { continue };
        let mut chain = Chain::default();
        let followed = follow(program, &uses, x, &mut chain);
        let (Some(()), Some(shift)) = (followed, chain.shift.filter(|s| *s > 0)) else { continue };
        let factor = 1i64 << shift;
        for &at in &chain.steps {
            let out = program.instructions[at].out;
            program.slots[out].wide = true;
            program.slots[out].scale *= factor as f64;
            match &mut program.instructions[at].op {
                Op::Linear { shift, .. } => *shift = None,
                Op::Gather { fill, .. } => *fill *= factor,
                Op::Add { y, .. } if chain.scaled.contains(&at) => additions.push((at, *y, factor)),
                _ => {}
            }
        }
        if let Op::Relu { shift: later, .. } = &mut program.instructions[relu].op {
            *later = Some(shift);
        }
    }
    // From the last on, so that places before stay what they are.
    additions.sort_unstable_by_key(|a| std::cmp::Reverse(a.0));
    for (at, y, factor) in additions {
        let mut info = program.slots[y].clone();
        info.scale *= factor as f64;
        program.slots.push(info);
        let scaled = program.slots.len() - 1;
        let layer = program.instructions[at].layer;
        if let Op::Add { y, .. } = &mut program.instructions[at].op {
            *y = scaled;
        }
        let op = Op::Scale { x: y, factor };
        program.instructions.insert(at, crate::program::Instruction { layer, op, out: scaled });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::exec::{Loaded, encode_inputs};
    use crate::lower::truncated_at_once;
    use crate::program::Secrets;
    use crate::{Options, Ranges, Tensor, compile, for_inference, import, zoo};
    use sordino_mpc::{Clear, Kind, Settings, Step};
    use sordino_ring::{Cpu, PrgKey};

    fn run(program: &Program, secrets: &Secrets, inputs: &[Vec<i64>]) -> Vec<Option<Vec<i64>>> {
        let clear = Clear::new(Cpu::new(1)).with(program.settings);
        let mut at = Step::root([0; 16]);
        let loaded = Loaded::load(&clear, at.child("load"), program, Some(secrets)).unwrap();
        let outputs = loaded.run(&clear, at.child("run"), Some(inputs), |_| ()).unwrap();
        assert_eq!(clear.take_overflow(), None);
        outputs
    }

    #[test]
    fn no_integer_changes() {
        let settings = Settings { kind: Kind::Two, narrow_bits: 32, wide_bits: 53, ..Settings::default() };
        let options = Options { settings, ..Options::default() };
        let average = zoo::Pool::Average;
        for (name, least) in [("lenet", 2), ("resnet20-cifar10", 9), ("vgg16-cifar10", 13), ("squeezenet1.1", 18)] {
            let net = for_inference(&import(&zoo::build(name, 1, average).unwrap(), 1).unwrap());
            let dims = &net.shapes[net.inputs[0]];
            let words: Vec<u32> = PrgKey::new([5; 16]).words(dims.iter().product());
            let x = Tensor::new(dims, words.iter().map(|w| (w % 2001) as f32 / 1000.0 - 1.0).collect());
            let ranges = Ranges::calibrate(&net, &[vec![x.clone()]]).unwrap();
            let (now, secrets) = truncated_at_once(&net, &ranges, &options).unwrap();
            let (later, _) = compile(&net, &ranges, &options).unwrap();
            let is_deferred = |op: &Op| matches!(op, Op::Relu { shift: Some(_), .. });
            let deferred = later.instructions.iter().filter(|i| is_deferred(&i.op)).count();
            assert!(deferred >= least, "{name}: {deferred}");
            let inputs = encode_inputs(&now, &[x]).unwrap();
            assert!(run(&later, &secrets, &inputs) == run(&now, &secrets, &inputs), "{name}");
        }
    }
}
