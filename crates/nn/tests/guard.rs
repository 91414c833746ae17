//! The guard over whole networks: it changes no integer and costs little, answers where nothing leaves its range, and refuses where something
//! does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod shares;

use shares::Run;
use sordino_mpc::{Clear, Error, Plan, Protocol, Step};
use sordino_nn::exec::{Loaded, encode_inputs};
use sordino_nn::program::{Op, Program, Secrets};
use sordino_nn::{Network, Options, Ranges, Tensor, compile, for_inference, import, zoo};
use sordino_ring::{Cpu, PrgKey};
use sordino_testkit::{Job, World};

fn network(name: &str) -> Network {
    for_inference(&import(&zoo::build(name, 1, zoo::Pool::Max).unwrap(), 1).unwrap())
}

fn sample(net: &Network, seed: u8) -> Vec<Tensor> {
    let dims = &net.shapes[net.inputs[0]];
    let words: Vec<u32> = PrgKey::new([seed; 16]).words(dims.iter().product());
    vec![Tensor::new(dims, words.iter().map(|w| (w % 2001) as f32 / 1000.0 - 1.0).collect())]
}

fn job<'a>(program: &'a Program, secrets: &'a Secrets, inputs: &[Tensor]) -> Run<'a> {
    Run { program, secrets, inputs: encode_inputs(program, inputs).unwrap() }
}

#[test]
fn it_changes_no_integer_and_costs_little() {
    for name in ["lenet", "resnet20-cifar10", "vgg16-cifar10", "alexnet-cifar10", "squeezenet1.1"] {
        let net = network(name);
        let x = sample(&net, 3);
        let ranges = Ranges::calibrate(&net, std::slice::from_ref(&x)).unwrap();
        let mut answers = vec![];
        let mut costs = vec![];
        for guard in [false, true] {
            let (program, secrets) = compile(&net, &ranges, &Options { guard, ..Options::default() }).unwrap();
            assert_eq!(program.guarded, usize::from(guard));
            program.check().unwrap();
            let job = job(&program, &secrets, &x);
            let clear = Clear::new(Cpu::new(2)).with(program.settings);
            answers.push(job.run(&clear, Step::root([1; 16])).unwrap());
            assert_eq!(clear.take_overflow(), None, "{name}");
            // Of a run alone: weights are shared once.
            let plan = Plan::new(program.settings);
            let loaded = Loaded::load(&plan, Step::root([1; 16]), &program, None).unwrap();
            let before = plan.cost();
            loaded.run(&plan, Step::root([2; 16]), None, |_| ()).unwrap();
            costs.push((plan.cost().total() - before.total(), plan.cost().rounds));
        }
        assert!(answers[0] == answers[1], "{name}");
        let share = costs[1].0 as f64 / costs[0].0 as f64 - 1.0;
        println!("{name}: {:.2} % more bytes", 100.0 * share);
        assert!(share < 0.025 && costs[0].1 == costs[1].1, "{name}: {costs:?}");
    }
}

/// Whether a value that is watched is so far out that it is noted for certain: mod 2^n between one and a half and two and a half times the
/// bound, either way; and whether any is out at all.
fn outside(program: &Program, secrets: &Secrets, inputs: &[Vec<i64>]) -> (bool, bool) {
    let clear = Clear::new(Cpu::new(2)).with(program.settings);
    let limit = 1i64 << (program.settings.narrow_bits - 2);
    let watched: Vec<usize> = program
        .instructions
        .iter()
        .filter_map(|i| match i.op {
            Op::Watch { x, .. } => Some(x),
            _ => None,
        })
        .collect();
    let (mut certainly, mut at_all) = (false, false);
    let loaded = Loaded::load(&clear, Step::root([1; 16]), program, Some(secrets)).unwrap();
    let see = |slot: usize, x: &<Clear<Cpu> as Protocol>::Arith| {
        // The receiver looks at the outputs themselves.
        let output = program.outputs.iter().any(|o| o.slot == slot);
        if watched.contains(&slot) || output {
            let far = |v: i64| (limit + limit / 2..2 * limit + limit / 2).contains(&v.rem_euclid(4 * limit));
            let beyond = x.values().iter().any(|v| v.abs() >= limit);
            certainly |= x.values().iter().any(|&v| far(v)) || output && beyond;
            at_all |= beyond;
        }
    };
    loaded.run_seen(&clear, Step::root([2; 16]), Some(inputs), |_| (), see).unwrap();
    (certainly, at_all || clear.take_overflow().is_some())
}

/// One value of the network after the other is said to be smaller than it is.
#[test]
fn what_leaves_its_range_is_refused_and_nothing_else() {
    let (mut refused, mut answered) = (0, 0);
    for (name, factors) in [("lenet", &[0.5, 0.8, 1.5, 3.0, 8.0, 100.0][..]), ("resnet20-cifar10", &[1.5, 5.0][..])] {
        let net = network(name);
        let x = sample(&net, 4);
        let ranges = Ranges::calibrate(&net, std::slice::from_ref(&x)).unwrap();
        let input = &net.names[net.inputs[0]];
        for value in ranges.values.keys().filter(|v| *v != input) {
            for factor in factors {
                let mut ranges = ranges.clone();
                let range = ranges.values.get_mut(value).unwrap();
                (range.lo, range.hi) = (range.lo / factor, range.hi / factor);
                let (program, secrets) = compile(&net, &ranges, &Options::default()).unwrap();
                let job = job(&program, &secrets, &x);
                let (certainly, at_all) = outside(&program, &secrets, &job.inputs);
                let ends = World::default().run(&job).ends;
                let stopped = ends.iter().any(|end| matches!(end, Err(Error::OutOfRange)));
                let what = format!("{name}: {value} by {factor}");
                assert!(stopped || ends.iter().all(Result::is_ok), "{what}");
                assert!(!certainly || stopped, "{what} was answered");
                assert!(at_all || !stopped, "{what} was refused");
                if stopped { refused += 1 } else { answered += 1 }
            }
        }
    }
    assert!(refused > 10 && answered > 50, "{refused} refused, {answered} answered");
}
