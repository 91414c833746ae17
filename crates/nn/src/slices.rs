//! Large ReLUs and maxima done slice by slice: a comparison holds some hundred bytes an element while it is under way, and a slice's are
//! gone before the next one begins. Each slice is a comparison of its own, with its own rounds; what is sent stays what it was, but for
//! bits that fill up words.

use crate::program::{Instruction, Op, Program, Slot, SlotInfo, View};
use sordino_ring::Shape;

/// Applies the pass: no ReLU or maximum is of more than `most` elements. Those whose bits are kept stay whole.
pub(crate) fn slice(program: &mut Program, most: usize) {
    let most = most.max(1);
    let instructions = std::mem::take(&mut program.instructions);
    for instruction in instructions {
        let n = program.slots[instruction.out].shape.len();
        match instruction.op {
            Op::Relu { keep: None, .. } | Op::Max { keep: None, .. } if n > most => sliced(program, &instruction, most),
            _ => program.instructions.push(instruction),
        }
    }
}

/// A slot like another one, of so many elements.
fn like(program: &mut Program, slot: Slot, n: usize) -> Slot {
    let info = &program.slots[slot];
    let info = SlotInfo { shape: Shape::new(&[n]), scale: info.scale, wide: info.wide };
    program.slots.push(info);
    program.slots.len() - 1
}

fn sliced(program: &mut Program, whole: &Instruction, most: usize) {
    let (layer, n) = (whole.layer, program.slots[whole.out].shape.len());
    let push = |program: &mut Program, op, out| program.instructions.push(Instruction { layer, op, out });
    let flat = |program: &mut Program, x: Slot| {
        let out = like(program, x, n);
        push(program, Op::Reshape { x, dims: vec![n] }, out);
        out
    };
    // Operands by their places in the operation.
    let operands: Vec<Slot> = whole.op.operands().into_iter().map(|x| flat(program, x)).collect();
    // Slices of equal length, but for the last.
    let len = n.div_ceil(n.div_ceil(most));
    let (mut xs, mut widths) = (vec![], vec![]);
    for start in (0..n).step_by(len) {
        let len = len.min(n - start);
        let parts: Vec<Slot> = operands
            .iter()
            .map(|&x| {
                let part = like(program, x, len);
                let view = View::Window { dims: vec![n], start: vec![start as isize], step: vec![1], out: vec![len] };
                push(program, Op::Gather { x, view, fill: 0 }, part);
                part
            })
            .collect();
        let out = like(program, whole.out, len);
        let op = match (&whole.op, &parts[..]) {
            (Op::Max { .. }, [x, y]) => Op::Max { x: *x, y: *y, keep: None },
            (Op::Relu { shift, wide, .. }, [x]) => Op::Relu { x: *x, shift: *shift, wide: *wide, keep: None },
            (other, _) => (*other).clone(),
        };
        push(program, op, out);
        xs.push(out);
        widths.push(len);
    }
    let dims = program.slots[whole.out].shape.dims().to_vec();
    push(program, Op::Concat { xs, outer: 1, widths, dims }, whole.out);
}
