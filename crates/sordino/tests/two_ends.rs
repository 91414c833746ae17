//! A protocol of two ends runs programs through the same session loop and the same executor as the three servers do. Here it
//! is the oracle split in two: shares add up to a value, and whatever is not local is done on opened values. It hides nothing;
//! it shows what a protocol must bring.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino::inputs::{Preprocess, read};
use sordino::session::{Job, Outputs, Owned, end};
use sordino::{Graph, Options, Tensor, exec, model};
use sordino_mpc::{
    Checked, Clear, ClearTensor, Error, Kind, Local, Party, Protocol, Result, Role, Settings, Step, Width,
};
use sordino_net::{Endpoint, LinkModel, Net, Part, Segment, memory_links};
use sordino_nn::exec::Loaded;
use sordino_nn::program::{Program, Secrets};
use sordino_ring::{Conv2d, Cpu, PrgKey, Shape};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

struct Split {
    net: Net,
    clear: Clear<Cpu>,
    settings: Settings,
}

impl Split {
    fn peer(&self) -> Endpoint {
        Endpoint(1 - self.net.me().0)
    }
    fn first(&self) -> bool {
        self.net.me() == Endpoint(0)
    }
    fn words(values: &[i64]) -> Vec<Part> {
        vec![Part::Wide(values.iter().map(|v| *v as u64).collect())]
    }
    fn heard(&self, at: &Step, n: usize) -> Result<Vec<i64>> {
        let message = self.net.recv(self.peer(), at.tag("share"), &[Segment::Wide(n)])?;
        Ok(message[0].bytes().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect())
    }
    /// Both ends learn a value.
    fn opened(&self, at: &Step, x: &ClearTensor) -> Result<ClearTensor> {
        self.net.send(self.peer(), at.tag("share"), Self::words(x.values()))?;
        let theirs = self.heard(at, x.values().len())?;
        let sum: Vec<i64> = x.values().iter().zip(theirs).map(|(a, b)| a.wrapping_add(b)).collect();
        Ok(self.clear.constant(&sum, self.clear.shape(x), self.clear.width(x)))
    }
    /// A value that both know as shares.
    fn halved(&self, at: &Step, x: &ClearTensor) -> ClearTensor {
        let mut key = [0; 16];
        key.copy_from_slice(&at.tag("mask").0);
        let mask: Vec<u64> = PrgKey::new(key).words(x.values().len());
        let own = |(v, m): (&i64, u64)| if self.first() { v.wrapping_sub(m as i64) } else { m as i64 };
        let values: Vec<i64> = x.values().iter().zip(mask).map(own).collect();
        self.clear.constant(&values, self.clear.shape(x), self.clear.width(x))
    }
    fn both(&self, mut at: Step, f: impl FnOnce(Step) -> Result<ClearTensor>) -> Result<ClearTensor> {
        let y = f(at.child("clear"))?;
        Ok(self.halved(&at, &y))
    }
}

impl Party for Split {
    fn net(&self) -> &Net {
        &self.net
    }
}

impl Protocol for Split {
    /// Its values are one end's share.
    type Arith = ClearTensor;
    type Bit = ClearTensor;
    type Weight = <Clear<Cpu> as Protocol>::Weight;

    fn shape<'a>(&self, x: &'a ClearTensor) -> &'a Shape {
        self.clear.shape(x)
    }
    fn width(&self, x: &ClearTensor) -> Width {
        self.clear.width(x)
    }
    fn input(&self, _at: Step, from: Role, values: Option<&[i64]>, shape: &Shape) -> Result<ClearTensor> {
        let own = self.settings.kind.end(from) == self.net.me();
        let values = match values {
            Some(v) if own => v.to_vec(),
            _ if own => return Err(Error::Usage("an input has no values".into())),
            _ => vec![0; shape.len()],
        };
        Ok(self.clear.constant(&values, shape, Width::Wide))
    }
    fn prepare(&self, mut at: Step, from: Role, values: Option<&[i64]>, op: &Conv2d) -> Result<Self::Weight> {
        let values = if self.settings.kind.end(from) == self.net.me() {
            let values = values.ok_or_else(|| Error::Usage("a weight has no values".into()))?.to_vec();
            self.net.send(self.peer(), at.tag("share"), Self::words(&values))?;
            values
        } else {
            self.heard(&at, op.weight().len())?
        };
        self.clear.prepare(at.child("clear"), from, Some(&values), op)
    }
    fn constant(&self, values: &[i64], shape: &Shape, width: Width) -> ClearTensor {
        let values = if self.first() { values.to_vec() } else { vec![0; values.len()] };
        self.clear.constant(&values, shape, width)
    }
    fn local(&self, op: &Local<'_>, operands: &[&ClearTensor]) -> Result<ClearTensor> {
        // Constants are the first end's.
        let op = match op {
            Local::Offset(_) if !self.first() => &Local::Offset(0),
            Local::Gather(map, _) if !self.first() => &Local::Gather(map, 0),
            op => op,
        };
        self.clear.local(op, operands)
    }
    fn linear(
        &self,
        mut at: Step,
        terms: &[(&ClearTensor, &Self::Weight, Conv2d)],
        bias: Option<&ClearTensor>,
        shift: u32,
    ) -> Result<ClearTensor> {
        let z = self.linear_wide(at.child("product"), terms, bias)?;
        self.truncate(at.child("truncate"), &z, shift)
    }
    fn linear_wide(
        &self,
        mut at: Step,
        terms: &[(&ClearTensor, &Self::Weight, Conv2d)],
        bias: Option<&ClearTensor>,
    ) -> Result<ClearTensor> {
        let xs = terms.iter().map(|t| self.opened(&at.child("x"), t.0)).collect::<Result<Vec<_>>>()?;
        let bias = bias.map(|b| self.opened(&at.child("bias"), b)).transpose()?;
        let terms: Vec<_> = xs.iter().zip(terms).map(|(x, t)| (x, t.1, t.2)).collect();
        self.both(at.child("y"), |at| self.clear.linear_wide(at, &terms, bias.as_ref()))
    }
    fn truncate(&self, mut at: Step, x: &ClearTensor, shift: u32) -> Result<ClearTensor> {
        let x = self.opened(&at.child("x"), x)?;
        self.both(at, |at| self.clear.truncate(at, &x, shift))
    }
    fn msb(&self, mut at: Step, x: &ClearTensor) -> Result<ClearTensor> {
        let x = self.opened(&at.child("x"), x)?;
        self.clear.msb(at.child("clear"), &x)
    }
    fn relu_with_bit(&self, mut at: Step, x: &ClearTensor, out: Width) -> Result<(ClearTensor, ClearTensor)> {
        let x = self.opened(&at.child("x"), x)?;
        let (y, bit) = self.clear.relu_with_bit(at.child("clear"), &x, out)?;
        Ok((self.halved(&at, &y), bit))
    }
    fn extend(&self, mut at: Step, x: &ClearTensor) -> Result<ClearTensor> {
        let x = self.opened(&at.child("x"), x)?;
        self.both(at, |at| self.clear.extend(at, &x))
    }
    fn verify(&self, at: Step, x: ClearTensor) -> Result<Checked<ClearTensor>> {
        self.clear.verify(at, x)
    }
    fn open(&self, mut at: Step, x: Checked<ClearTensor>, to: Role) -> Result<Option<Vec<i64>>> {
        let own = self.clear.open(at.child("own"), x, to)?.unwrap_or_default();
        if self.settings.kind.end(to) != self.net.me() {
            self.net.send(self.peer(), at.tag("share"), Self::words(&own))?;
            return Ok(None);
        }
        let theirs = self.heard(&at, own.len())?;
        Ok(Some(own.iter().zip(theirs).map(|(a, b)| a.wrapping_add(b)).collect()))
    }
}

struct Heard(usize);

impl Outputs for Heard {
    fn opened(&mut self, _run: usize, outputs: &[Vec<i64>], _seconds: f64) {
        assert_eq!(outputs.len(), 1);
        self.0 += 1;
    }
}

fn two() -> Settings {
    Settings { kind: Kind::Two, narrow_bits: 32, wide_bits: 53, ..Settings::default() }
}

fn compiled(graph: &Graph, settings: Settings, samples: &[Tensor]) -> (Program, Secrets) {
    let typed = model::typed(graph, 1).unwrap();
    let ranges = model::calibrate(graph, &samples.iter().map(|s| vec![s.clone()]).collect::<Vec<_>>()).unwrap();
    model::compiled(&typed, &ranges, &Options { settings, ..Options::default() }).unwrap()
}

/// What the oracle answers.
fn oracle(program: &Program, secrets: &Secrets, inputs: &[Vec<i64>]) -> Vec<Vec<i64>> {
    let clear = Clear::new(Cpu::new(1)).with(program.settings);
    let mut at = Step::root([0; 16]);
    let loaded = Loaded::load(&clear, at.child("load"), program, Some(secrets)).unwrap();
    let outputs = loaded.run(&clear, at.child("run"), Some(inputs), |_| ()).unwrap();
    assert_eq!(clear.take_overflow(), None);
    outputs.into_iter().map(Option::unwrap).collect()
}

fn digit() -> (Graph, Vec<Tensor>) {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets");
    let preprocess = Preprocess { scale: Some(1.0 / 255.0), ..Preprocess::default() };
    let digit = read(&[assets.join("digit-7.png")], &[1, 1, 28, 28], &preprocess).unwrap();
    (model::read(&assets.join("mnist.onnx")).unwrap(), digit)
}

#[test]
fn two_ends_run_a_program_through_the_session_loop() {
    let (graph, digit) = digit();
    let (program, secrets) = compiled(&graph, two(), &digit);
    let inputs = exec::encode_inputs(&program, &digit).unwrap();
    let want = oracle(&program, &secrets, &inputs);
    let (a, b) = (Endpoint(0), Endpoint(1));
    assert_eq!(program.topology().ends(), [a, b]);
    let (ab, ba) = memory_links(a, b, LinkModel::UNLIMITED, Duration::from_secs(60));
    let job = Job::new(&program, 2).unwrap();
    let party = |net: Net| Split { net, clear: Clear::new(Cpu::new(1)), settings: program.settings };
    let runs = [inputs.clone(), inputs];
    let (owner, client) = std::thread::scope(|scope| {
        let (party, runs, secrets) = (&party, &runs, &secrets);
        let owner = scope.spawn(move || {
            let owned = Owned { weights: Some(secrets), ..Owned::default() };
            end(job, &party(Net::new(a, [(b, ab)])), owned, &AtomicU64::new(0)).unwrap()
        });
        let client = scope.spawn(move || {
            let (mut inputs, mut heard) = (&runs[..], Heard(0));
            let owned = Owned { inputs: Some(&mut inputs), outputs: Some(&mut heard), ..Owned::default() };
            let ended = end(job, &party(Net::new(b, [(a, ba)])), owned, &AtomicU64::new(0)).unwrap();
            assert_eq!(heard.0, 2);
            ended
        });
        (owner.join().unwrap(), client.join().unwrap())
    });
    assert_eq!(client.outputs, [want.clone(), want]);
    assert!(owner.outputs.is_empty() && owner.report.payload > 0 && client.report.rounds > 0);
}
