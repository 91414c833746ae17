//! ReLUs and maxima in slices: the same integers, nearly the same bytes, less memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod shares;

use shares::Run;
use sordino_mpc::{Clear, Costs, Kind, Plan, Settings, Step, two};
use sordino_nn::exec::{Loaded, encode_inputs};
use sordino_nn::program::{Op, Program};
use sordino_nn::{Options, Ranges, Tensor, compile, for_inference, import, zoo};
use sordino_ring::{Cpu, PrgKey};
use sordino_testkit::{Job, World};

/// Bytes sent in a run, and the most memory of a party.
fn costs(program: &Program) -> (u64, u64) {
    match program.settings.kind {
        Kind::Three => costs_of(&Plan::new(program.settings), program),
        Kind::Two => costs_of(&Plan::<two::Declared>::of(program.settings), program),
    }
}

fn costs_of<C: Costs>(plan: &Plan<C>, program: &Program) -> (u64, u64) {
    let loaded = Loaded::load(plan, Step::root([1; 16]), program, None).unwrap();
    plan.restart();
    loaded.run(plan, Step::root([2; 16]), None, |_| ()).unwrap();
    (plan.cost().total(), plan.peak_bytes())
}

#[test]
fn slices_compute_the_same() {
    let two = Settings { kind: Kind::Two, narrow_bits: 25, wide_bits: 37, ..Settings::default() };
    for (name, at_once, settings) in [
        ("lenet", 1000, Settings::default()),
        ("lenet", 64, Settings::default()),
        ("resnet20-cifar10", 5000, Settings::default()),
        ("lenet", 1000, two),
    ] {
        let net = for_inference(&import(&zoo::build(name, 1, zoo::Pool::Max).unwrap(), 1).unwrap());
        let dims = &net.shapes[net.inputs[0]];
        let words: Vec<u32> = PrgKey::new([3; 16]).words(dims.iter().product());
        let x = vec![Tensor::new(dims, words.iter().map(|w| (w % 2001) as f32 / 1000.0 - 1.0).collect())];
        let ranges = Ranges::calibrate(&net, std::slice::from_ref(&x)).unwrap();
        let options = Options { settings, ..Options::default() };
        let (whole, _) = compile(&net, &ranges, &options).unwrap();
        let (sliced, secrets) = compile(&net, &ranges, &Options { at_once: Some(at_once), ..options }).unwrap();
        sliced.check().unwrap();
        for i in &sliced.instructions {
            let compares = matches!(i.op, Op::Relu { .. } | Op::Max { .. });
            assert!(!compares || sliced.slots[i.out].shape.len() <= at_once, "{name}: {:?}", i.op);
        }
        assert!(sliced.instructions.len() > whole.instructions.len() && sliced.hash() != whole.hash());
        let answer = |program| {
            let job = Run { program, secrets: &secrets, inputs: encode_inputs(program, &x).unwrap() };
            let clear = Clear::new(Cpu::new(1)).with(program.settings);
            (job.run(&clear, Step::root([1; 16])).unwrap(), job)
        };
        let ((want, _), (got, job)) = (answer(&whole), answer(&sliced));
        assert!(got == want, "{name}");
        let ((bytes, memory), (bytes_sliced, memory_sliced)) = (costs(&whole), costs(&sliced));
        println!("{name} by {at_once}: {bytes} and {bytes_sliced} bytes, {memory} and {memory_sliced} held");
        // Every slice has three parts, each of which fills up words of 64 elements.
        let more = bytes_sliced as f64 / bytes as f64;
        assert!(more < if at_once > 500 { 1.03 } else { 2.0 }, "{name}: {bytes_sliced} bytes for {bytes}");
        assert!(memory_sliced <= memory, "{name}: {memory_sliced} for {memory}");
        if settings.kind == Kind::Two {
            continue;
        }
        let (shared, ..) = World { settings, ..World::default() }.run(&job).unwrap();
        let shared = shared[0].as_ref().unwrap();
        let near = |a: &i64, b: &i64| (a - b).abs() as f64 <= sliced.slots[sliced.outputs[0].slot].scale * 1e-3;
        assert!(shared.iter().zip(want[0].as_ref().unwrap()).all(|(a, b)| near(a, b)), "{name}");
    }
}
