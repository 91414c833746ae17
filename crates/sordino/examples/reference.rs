//! Runs a model in the float reference on an array and compares with an expected array: `reference MODEL X WANT`.
//! Prints the largest error relative to the largest output, and fails above 1e-4.

use sordino::{Error, Result, inputs, model};
use sordino_nn::float;
use std::path::PathBuf;

fn compare(args: &[PathBuf]) -> Result<f32> {
    let [model, x, want] = args else { return Err(Error::Usage("usage: reference MODEL X WANT".into())) };
    let net = model::typed(&model::read(model)?, 1)?.reference;
    let dims = |id: usize| net.shapes[id].clone();
    let read =
        |path: &PathBuf, dims: Vec<usize>| inputs::read(std::slice::from_ref(path), &dims[..], &Default::default());
    let got = float::evaluate(&net, &read(x, dims(net.inputs[0]))?, |_, _| ())?;
    let want = read(want, dims(net.outputs[0].1))?;
    let pairs = got[0].data.iter().zip(&want[0].data);
    Ok(pairs.map(|(g, w)| (g - w).abs()).fold(0.0, f32::max) / want[0].max_abs())
}

fn main() -> std::process::ExitCode {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match compare(&args) {
        Ok(error) => {
            println!("largest error {error:.1e} of the largest output");
            if error <= 1e-4 { 0 } else { 1 }.into()
        }
        Err(error) => {
            eprintln!("{error}");
            error.exit_code().into()
        }
    }
}
