//! Training as a user meets it: it follows floats, survives being killed, and says what is wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn asset(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").join(name).to_str().unwrap().into()
}

/// LeNet on twenty digits.
fn command(more: &[&str]) -> Command {
    let (data, labels) = (asset("digits-idx3-ubyte.gz"), asset("digits-labels-idx1-ubyte.gz"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.args(["train", "--model", "zoo:lenet", "--data", &data, "--labels", &labels, "--batch", "4"]).args(more);
    command
}

fn train(more: &[&str]) -> Output {
    command(more).output().unwrap()
}

fn json(more: &[&str]) -> Value {
    let out = train(&[more, &["--json"]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn number(v: &Value) -> f64 {
    v.as_f64().unwrap()
}

#[test]
fn it_follows_floats_and_learns() {
    let dir = tempfile::tempdir().unwrap();
    let (model, plot) = (dir.path().join("m.onnx"), dir.path().join("loss.svg"));
    let (data, labels) = (asset("digits-idx3-ubyte.gz"), asset("digits-labels-idx1-ubyte.gz"));
    let files = ["-o", model.to_str().unwrap(), "--plot", plot.to_str().unwrap()];
    let schedule = ["--epochs", "20", "--rate", "0.003", "--reveal-loss", "--check"];
    let judge = ["--validation", &data, "--validation-labels", &labels];
    let got = json(&[&files[..], &schedule, &judge].concat());
    assert_eq!(got["iterations"], 100);
    // The same digits it was trained on: it must know them by heart.
    assert!(number(&got["validation_accuracy"]) >= 0.95, "{}", got["validation_accuracy"]);
    assert!(number(&got["check"]["largest_relative_loss_difference"]) < 0.05, "{}", got["check"]);
    let losses: Vec<f64> = got["losses"].as_array().unwrap().iter().map(number).collect();
    assert!(losses[80..].iter().sum::<f64>() < 0.3 * losses[..20].iter().sum::<f64>(), "{losses:?}");
    assert!(std::fs::read_to_string(&plot).unwrap().contains("floats"));
    // The trained model is a model like any other.
    let out = Command::new(env!("CARGO_BIN_EXE_sordino"))
        .args(["infer", model.to_str().unwrap(), "--input", &data, "--limit", "3", "--json", "--check"])
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
    let classes: Vec<&Value> = answer["top"].as_array().unwrap().iter().map(|t| &t[0]["class"]).collect();
    assert_eq!(classes, [7, 2, 1], "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_killed_training_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let folder: PathBuf = dir.path().join("shares");
    let schedule = ["--epochs", "8", "--rate", "0.005", "--reveal-loss", "--parties", "processes"];
    let keep = ["--checkpoint", folder.to_str().unwrap(), "--checkpoint-every", "3"];
    let mut child =
        command(&[&schedule[..], &keep].concat()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    let written = |iteration: usize| folder.join(format!("server-2-{iteration:09}.checkpoint")).exists();
    while !(6..40).any(|i| i % 3 == 0 && written(i)) {
        assert!(Instant::now() < end, "no checkpoint appears");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = json(&[&schedule[..], &keep, &["--resume", "--check"]].concat());
    let left = resumed["iterations"].as_u64().unwrap();
    assert!((1..=37).contains(&left) && (40 - left).is_multiple_of(3), "{left} iterations were left");
    // Up to rounding the weights are those of an uninterrupted training: both follow floats from the start.
    assert!(number(&resumed["check"]["max_abs_weight_difference"]) < 0.05, "{}", resumed["check"]);
    assert!(number(&resumed["check"]["largest_relative_loss_difference"]) < 0.1, "{}", resumed["check"]);
    // Another training cannot go on from these shares, nor a damaged file.
    let other = train(&[&keep[..], &["--resume", "--epochs", "9", "--rate", "0.03"]].concat());
    let text = String::from_utf8_lossy(&other.stderr).to_string();
    assert!(other.status.code() == Some(2) && text.contains("belongs to another training"), "{text}");
    let path = folder.join("server-1-000000040.checkpoint");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let damaged = train(&[&schedule[..], &keep, &["--resume"]].concat());
    let text = String::from_utf8_lossy(&damaged.stderr).to_string();
    assert!(damaged.status.code() == Some(1) && text.contains("damaged"), "{text}");
}

#[test]
fn what_is_wrong_gets_one_sentence() {
    let refused = |more: &[&str], code: i32, words: &str| {
        let out = train(more);
        let text = String::from_utf8_lossy(&out.stderr).to_string();
        assert_eq!(out.status.code(), Some(code), "{more:?}: {text}");
        assert!(text.contains(words) && !text.contains("panicked"), "{more:?}: {text}");
    };
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("train.toml");
    let config = config.to_str().unwrap();
    std::fs::write(config, "batch = 2\nspeed = 3\n").unwrap();
    refused(&["--config", config], 2, "speed");
    refused(&["--epochs", "1", "--rate", "12"], 2, "too large");
    refused(&["--rate", "-1", "--epochs", "1"], 2, "");
    refused(&["--resume", "--checkpoint", dir.path().to_str().unwrap()], 2, "no iteration");
    refused(&["--labels", &asset("digits-idx3-ubyte.gz")], 2, "");
    refused(&["--model", "zoo:nothing"], 2, "");
    refused(&["--plot", "/nonexistent/loss.svg", "--iterations", "1"], 2, "");
}
