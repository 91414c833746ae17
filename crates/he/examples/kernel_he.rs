//! Runs one kernel a number of times on fixed operands, for counting instructions: `kernel_he NAME TIMES`, or `kernel_he` for
//! the names. scripts/instructions.py runs it under valgrind.

use sordino_he::layer::{Place, answer, question, read};
use sordino_he::modulus::Modulus;
use sordino_he::ntt::Ntt;
use sordino_he::params::{guard, noise};
use sordino_he::{Layout, N, Params, PublicKey, Scheme, SecretKey};
use sordino_ot::Stream;
use sordino_ring::Conv2d;
use std::hint::black_box;

/// Bits of products, of weights, and channels of the layer.
const WIDE: u32 = 36;
const WEIGHTS: u32 = 10;
const CHANNELS: usize = 64;

fn stream(byte: u8) -> Stream {
    Stream::new([byte; 16])
}

/// A layer of one party, with all that its steps take.
struct Case {
    scheme: Scheme,
    layout: Layout,
    key: SecretKey,
    public: PublicKey,
    x: Vec<u64>,
    weights: Vec<i64>,
}

impl Case {
    fn new() -> Option<Self> {
        let side = 8;
        let op = Conv2d { h: side, w: side, cin: CHANNELS, cout: CHANNELS, ..Conv2d::matmul(1, 1, 1) };
        let params = Params::new(WIDE + guard(1), noise(WEIGHTS, CHANNELS))?;
        let scheme = Scheme::new(params);
        let (key, public) = SecretKey::new(&scheme, &mut stream(1));
        let public = PublicKey::read(&scheme, &public).ok()?;
        let layout = Layout::new(op, params, WIDE + guard(1));
        let x = stream(2).words(op.input().len()).iter().map(|v| v & ((1 << WIDE) - 1)).collect();
        let weights = stream(3).words(op.weight().len()).iter().map(|v| (v % 1023) as i64 - 511).collect();
        Some(Self { scheme, layout, key, public, x, weights })
    }

    fn place(&self) -> Place<'_> {
        Place { scheme: &self.scheme, layout: &self.layout, bits: WIDE + guard(1), threads: 1 }
    }

    fn asked(&self) -> Vec<u64> {
        question(&self.place(), &self.key, &self.x, WIDE, &mut stream(4))
    }

    fn answered(&self, asked: &[u64]) -> Option<Vec<u64>> {
        answer(&self.place(), &self.public, &self.weights, asked, &mut stream(5)).ok().map(|said| said.0)
    }
}

/// A kernel with its operands, ready to run.
fn kernel(name: &str) -> Option<Box<dyn Fn()>> {
    let transform = |forward: bool| -> Box<dyn Fn()> {
        let ntt = Ntt::new(Modulus::below(50, 0));
        let x: Vec<u64> = stream(6).words(N).iter().map(|v| v >> 16).collect();
        Box::new(move || {
            let mut x = x.clone();
            if forward {
                ntt.forward(&mut x)
            } else {
                ntt.backward(&mut x)
            }
            black_box(x);
        })
    };
    Some(match name {
        "ntt" => transform(true),
        "ntt_back" => transform(false),
        "question" => {
            let case = Case::new()?;
            Box::new(move || drop(black_box(case.asked())))
        }
        "answer" => {
            let case = Case::new()?;
            let asked = case.asked();
            Box::new(move || drop(black_box(case.answered(&asked))))
        }
        "read" => {
            let case = Case::new()?;
            let said = case.answered(&case.asked())?;
            Box::new(move || drop(black_box(read(&case.place(), &case.key, &said))))
        }
        _ => return None,
    })
}

fn main() {
    let names = "ntt ntt_back question answer read";
    let mut arguments = std::env::args().skip(1);
    let (name, times) = (arguments.next().unwrap_or_default(), arguments.next().and_then(|t| t.parse::<u32>().ok()));
    match (kernel(&name), times) {
        (Some(run), Some(times)) => (0..times).for_each(|_| run()),
        _ => println!("{names}"),
    }
}
