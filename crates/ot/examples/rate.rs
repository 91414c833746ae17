//! How many random oblivious transfers a second two ends make, strings hashed, each end on a core of its own: `rate [MILLIONS]`.

use sordino_ot::{Error, Method, Pool, Result, Setup, Stream};
use std::hint::black_box;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// Transfers each way that are made together.
const TOGETHER: usize = 1 << 18;

type Wire = (Sender<Vec<u64>>, Receiver<Vec<u64>>);

fn swap(wire: &Wire, message: Vec<u64>, words: usize) -> Result<Vec<u64>> {
    if !message.is_empty() && wire.0.send(message).is_err() {
        return Err(Error::Length);
    }
    if words > 0 { wire.1.recv().map_err(|_| Error::Length) } else { Ok(vec![]) }
}

/// Seconds for so many times [`TOGETHER`] transfers each way, after the setup.
fn seconds(method: Method, times: usize) -> Result<f64> {
    let (ab, ba) = (channel(), channel());
    let (mut a, from_a) = Setup::new(b"a session", true, method, Stream::new([1; 16]));
    let (mut b, from_b) = Setup::new(b"a session", false, method, Stream::new([2; 16]));
    let (from_a, from_b) = (a.second(&from_b)?, b.second(&from_a)?);
    let run = move |setup: Setup, second: Vec<u64>, wire: Wire| {
        std::thread::spawn(move || -> Result<f64> {
            let mut pool: Pool = setup.finish(&second, 9, |m, n| swap(&wire, m, n))?;
            let mut start = Instant::now();
            for i in 0..=times {
                // The first time warms up.
                if i == 1 {
                    start = Instant::now();
                }
                pool.make([TOGETHER; 2], |m, n| swap(&wire, m, n))?;
                black_box((pool.send::<u32>(TOGETHER)?, pool.receive::<u32>(TOGETHER)?));
            }
            Ok(start.elapsed().as_secs_f64())
        })
    };
    let (a, b) = (run(a, from_b, (ab.0, ba.1)), run(b, from_a, (ba.0, ab.1)));
    let mut slower = 0.0;
    for end in [a, b] {
        slower = end.join().unwrap_or(Err(Error::Length))?.max(slower);
    }
    Ok(slower)
}

fn main() -> Result<()> {
    let millions = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(50usize);
    let times = (millions * 1_000_000).div_ceil(2 * TOGETHER);
    for (name, method) in [("silent", Method::Silent), ("compact", Method::Compact), ("softspoken", Method::SoftSpoken)]
    {
        let rate = (2 * times * TOGETHER) as f64 / seconds(method, times)?;
        println!("{name}: {:.1} million transfers a second", rate / 1e6);
    }
    Ok(())
}
