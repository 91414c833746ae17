//! Runs one kernel a number of times on fixed operands, for counting instructions: `kernel_ot NAME TIMES`, or `kernel_ot` for
//! the names. scripts/instructions.py runs it under valgrind. Silent transfers come by the million, which takes too long there.

use sordino_ot::{Error, Method, Pool, Result, Setup, Stream};
use std::hint::black_box;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Transfers each way, a round of the bulk.
const TRANSFERS: usize = 1 << 14;

type Wire = (Sender<Vec<u64>>, Receiver<Vec<u64>>);

fn swap(wire: &Wire, message: Vec<u64>, words: usize) -> Result<Vec<u64>> {
    if !message.is_empty() && wire.0.send(message).is_err() {
        return Err(Error::Length);
    }
    if words > 0 { wire.1.recv().map_err(|_| Error::Length) } else { Ok(vec![]) }
}

/// Makes transfers and takes their strings, so many times; both ends, each on a thread of its own.
fn transfers(times: u32) -> Result<()> {
    let (ab, ba) = (channel(), channel());
    let (mut a, from_a) = Setup::new(b"a session", true, Method::SoftSpoken, Stream::new([1; 16]));
    let (mut b, from_b) = Setup::new(b"a session", false, Method::SoftSpoken, Stream::new([2; 16]));
    let (from_a, from_b) = (a.second(&from_b)?, b.second(&from_a)?);
    let run = move |setup: Setup, second: Vec<u64>, wire: Wire| {
        std::thread::spawn(move || -> Result<()> {
            let mut pool: Pool = setup.finish(&second, 9, |m, n| swap(&wire, m, n))?;
            for _ in 0..times {
                pool.make([TRANSFERS; 2], |m, n| swap(&wire, m, n))?;
                black_box((pool.send::<u64>(TRANSFERS)?, pool.receive::<u64>(TRANSFERS)?));
            }
            Ok(())
        })
    };
    let (a, b) = (run(a, from_b, (ab.0, ba.1)), run(b, from_a, (ba.0, ab.1)));
    for end in [a, b] {
        end.join().unwrap_or(Err(Error::Length))?;
    }
    Ok(())
}

/// Words of a stream, so many times.
fn stream(times: u32) -> Result<()> {
    let mut stream = Stream::new([3; 16]);
    (0..times).for_each(|_| drop(black_box(stream.words(TRANSFERS))));
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (name, times) = (arguments.next().unwrap_or_default(), arguments.next().and_then(|t| t.parse::<u32>().ok()));
    match (name.as_str(), times) {
        ("softspoken", Some(times)) => transfers(times),
        ("stream", Some(times)) => stream(times),
        _ => {
            println!("softspoken stream");
            Ok(())
        }
    }
}
