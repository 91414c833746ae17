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

/// That the report compares with floats, and finds no other training. How closely trainings follow floats is held by the
/// library's tests, whose shares follow from a seed; here one rounding may tip a ReLU over.
fn compared(check: &Value) {
    assert!(number(&check["largest_relative_loss_difference"]) < 0.1, "{check}");
    assert!(number(&check["max_abs_weight_difference"]) < 0.05, "{check}");
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
    compared(&got["check"]);
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
fn classes_weigh_what_they_are_told_to() {
    let schedule = ["--epochs", "6", "--rate", "0.003", "--reveal-loss", "--check"];
    let with = |weights: &str| json(&[&schedule[..], &["--class-weights", weights]].concat());
    let balanced = with("balanced");
    compared(&balanced["check"]);
    // A single class counts: the loss of batches without it is nothing.
    let one = with("0,0,0,0,0,0,0,1,0,0");
    compared(&one["check"]);
    let nothing =
        |report: &Value| report["losses"].as_array().unwrap().iter().filter(|l| number(l).abs() < 1e-4).count();
    assert!(nothing(&one) > 5 && nothing(&balanced) == 0, "{one}");
    for (weights, said) in
        [("1,2", "2 numbers for 10 classes"), ("cats", "expected balanced"), ("-1,1", "from 0 to 1000")]
    {
        let out = train(&["--class-weights", weights]);
        assert_eq!(out.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&out.stderr).contains(said), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn a_killed_training_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let folder: PathBuf = dir.path().join("shares");
    // Every iteration has a rate of its own.
    let schedule = ["--epochs", "8", "--rate", "0.008", "--schedule", "cosine", "--warmup", "9", "--reveal-loss"];
    let schedule = [&schedule[..], &["--parties", "processes"]].concat();
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
    // The weights are those of an uninterrupted training, but for rounding: both follow floats from the start. An iteration
    // that was left out or done twice would move some by more than this.
    compared(&resumed["check"]);
    // The whole curve is there.
    let of: Vec<u64> = resumed["loss_iterations"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap()).collect();
    assert_eq!(of, (1..=40).collect::<Vec<_>>());
    // Another training cannot go on from these shares.
    let other = train(&[&keep[..], &["--resume", "--epochs", "8", "--rate", "0.03"]].concat());
    let text = String::from_utf8_lossy(&other.stderr).to_string();
    assert!(other.status.code() == Some(2) && text.contains("--rate"), "{text}");
    // A damaged file is passed over, unless none is left.
    let damage = |iteration: usize| {
        let path = folder.join(format!("server-1-{iteration:09}.checkpoint"));
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    damage(40);
    let again = train(&[&schedule[..], &keep, &["--resume"]].concat());
    let text = String::from_utf8_lossy(&again.stderr).to_string();
    assert!(again.status.success() && text.contains("server-1-000000040.checkpoint is damaged"), "{text}");
    assert!(text.contains("going on after iteration 39 of 40"), "{text}");
    damage(39);
    damage(40);
    let damaged = train(&[&schedule[..], &keep, &["--resume"]].concat());
    let text = String::from_utf8_lossy(&damaged.stderr).to_string();
    assert!(damaged.status.code() == Some(2) && text.contains("no iteration has sound checkpoints"), "{text}");
}

fn run(args: &[&str]) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_sordino")).args(args).arg("--json").output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// A NumPy array of floats.
fn npy(path: &Path, dims: &str, values: &[f32]) {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims}), }}\n");
    let mut raw = b"\x93NUMPY\x01\x00".to_vec();
    raw.extend((header.len() as u16).to_le_bytes());
    raw.extend(header.bytes());
    raw.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    std::fs::write(path, raw).unwrap();
}

/// A folder with x.npy and y.npy: so many 28x28 pictures, those of class c bright in row c.
fn rows_of_light(folder: &Path, n: usize, first: usize) {
    std::fs::create_dir(folder).unwrap();
    let classes: Vec<usize> = (0..n).map(|i| (first + i) % 10).collect();
    let pixel = |c: usize, p: usize| f32::from(u8::from(p / 28 / 2 == c)) + (p % 7) as f32 * 0.02;
    let x: Vec<f32> = classes.iter().flat_map(|&c| (0..784).map(move |p| pixel(c, p))).collect();
    npy(&folder.join("x.npy"), &format!("{n}, 1, 28, 28"), &x);
    npy(&folder.join("y.npy"), &format!("{n},"), &classes.iter().map(|&c| c as f32).collect::<Vec<_>>());
}

#[test]
fn two_owners_train_a_model_that_stays_shared() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    rows_of_light(&dir.path().join("first"), 40, 0);
    rows_of_light(&dir.path().join("second"), 20, 3);
    let (model, shares) = (asset("pytorch_training.onnx"), at("shares"));
    for parties in ["in-process", "processes"] {
        let folder = format!("{shares}-{parties}");
        let schedule = ["--batch", "12", "--epochs", "8", "--rate", "0.02", "--schedule", "cosine", "--warmup", "3"];
        let owners = ["--model", &model, "--data", &at("first"), "--owner", &at("second"), "--parties", parties];
        let got = run(&[&["train"], &owners[..], &schedule, &["--reveal-loss", "--checkpoint", &folder]].concat());
        assert_eq!(got["iterations"], 40, "eight and four rows of each owner in a batch");
        assert_eq!(got["validation_accuracy"], Value::Null, "nobody asked to open the model");
        let losses: Vec<f64> = got["losses"].as_array().unwrap().iter().map(number).collect();
        assert!(losses[30..].iter().sum::<f64>() < 0.2 * losses[..10].iter().sum::<f64>(), "{losses:?}");
        let data = at("first/x.npy");
        let answer = run(&["infer", "--shares", &folder, "--input", &data, "--limit", "10", "--parties", parties]);
        let classes: Vec<u64> =
            answer["top"].as_array().unwrap().iter().map(|t| t[0]["class"].as_u64().unwrap()).collect();
        assert_eq!(classes, (0..10).collect::<Vec<_>>());
    }
    // Shares of two sessions do not fit together, another program is not answered, a lost key is not made anew.
    let folder = |parties: &str| PathBuf::from(format!("{shares}-{parties}"));
    let refused = |words: &str| {
        let data = at("first/x.npy");
        let folder = format!("{shares}-in-process");
        let command = ["infer", "--shares", &folder, "--input", &data, "--limit", "1"];
        let out = Command::new(env!("CARGO_BIN_EXE_sordino")).args(command).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).to_string();
        assert!(!out.status.success() && text.contains(words), "{text}");
    };
    let model = std::fs::read_to_string(folder("in-process").join("model.json")).unwrap();
    std::fs::write(folder("in-process").join("model.json"), model.replacen("\"name\":\"y\"", "\"name\":\"z\"", 1))
        .unwrap();
    refused("model.json: it has been changed since");
    std::fs::write(folder("in-process").join("model.json"), &model).unwrap();
    let key = std::fs::read(folder("in-process").join("server-1.key")).unwrap();
    std::fs::remove_file(folder("in-process").join("server-1.key")).unwrap();
    refused("server-1.key: it is missing");
    std::fs::write(folder("in-process").join("server-1.key"), key).unwrap();
    for name in ["server-1-000000040.checkpoint", "server-1.key"] {
        std::fs::copy(folder("processes").join(name), folder("in-process").join(name)).unwrap();
    }
    refused("no iteration has sound checkpoints of all three");
}

#[test]
fn an_export_in_training_mode_follows_floats() {
    // One file of PyTorch's older exporter; a model and its tensors in two files of the newer one.
    for (model, optimiser) in [("pytorch_training.onnx", "sgd"), ("pytorch_export.onnx", "adam")] {
        let start = ["--model", &asset(model), "--batch", "10", "--optimiser", optimiser, "--decay", "0.001"];
        let (data, labels) = (asset("digits-idx3-ubyte.gz"), asset("digits-labels-idx1-ubyte.gz"));
        let set = ["--data", &data, "--labels", &labels, "--epochs", "8", "--reveal-loss", "--check"];
        let got = run(&[&["train"], &start[..], &set].concat());
        compared(&got["check"]);
    }
}

#[test]
fn folders_of_pictures_are_data() {
    let dir = tempfile::tempdir().unwrap();
    for (split, n) in [("train", 4u8), ("val", 2)] {
        for class in 0..3u8 {
            let folder = dir.path().join(split).join(format!("class-{class}"));
            std::fs::create_dir_all(&folder).unwrap();
            for i in 0..n {
                let picture = image::GrayImage::from_fn(28, 28, |x, _| {
                    image::Luma([if x / 9 == u32::from(class) { 200 + i } else { i }])
                });
                picture.save(folder.join(format!("{i}.png"))).unwrap();
            }
        }
    }
    let data = dir.path().to_str().unwrap();
    let schedule = ["--batch", "6", "--epochs", "20", "--rate", "0.05", "--scale", "0.004", "--check"];
    let got = run(&[&["train", "--model", &asset("pytorch_training.onnx"), "--data", data], &schedule[..]].concat());
    assert_eq!(number(&got["validation_accuracy"]), 1.0);
}

#[test]
fn an_iteration_can_be_planned() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("shares");
    let plan = json(&["--plan", "--reveal-loss", "--checkpoint", folder.to_str().unwrap()]);
    assert!(!folder.exists());
    let done = json(&["--iterations", "1", "--reveal-loss", "--parties", "processes"]);
    assert_eq!((&plan["bytes"], &plan["rounds"]), (&done["bytes"]["payload"], &done["rounds_per_iteration"]));
    let (plan, done) = (json(&["--plan"]), json(&["--iterations", "1"]));
    assert_eq!((&plan["bytes"], &plan["rounds"]), (&done["bytes"]["payload"], &done["rounds_per_iteration"]));
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
    std::fs::write(config, "batch = 2\nrate = \"fast\"\n").unwrap();
    refused(&["--config", config], 2, "line 2: it has string \"fast\", expected a number");
    std::fs::write(config, "[[owner]]\ndata = \"/nonexistent\"\n").unwrap();
    refused(&["--config", config], 2, "no such file or folder");
    std::fs::write(config, "iterations = 0\n").unwrap();
    refused(&["--config", config], 2, "iterations must be at least 1");
    std::fs::write(config, "batch = 10\nmomentum = 0.5\n").unwrap();
    refused(&["--config", config, "--optimiser", "adam", "--plan", "-o", config], 2, "--config names it too");
    refused(&["--epochs", "18446744073709551615"], 2, "4294967295");
    refused(&["--epochs", "4294967295"], 2, "more than can be ordered");
    refused(&["--iterations", "-1"], 2, "expected a whole number");
    refused(&["--warmup", "100", "--iterations", "5"], 2, "warmup 100");
    refused(&["--threads", "100000"], 2, "256");
    let same = dir.path().join("same.svg");
    let same = same.to_str().unwrap();
    refused(&["--reveal-loss", "-o", same, "--plot", same], 2, "choose another name");
    // Words about pictures that somebody else wrote beside the model to be.
    let written = dir.path().join("train.onnx");
    refused(&["-o", written.to_str().unwrap()], 2, "how pictures reach the model");
    refused(&["--optimiser", "adam", "--momentum", "0.5"], 2, "momentum belongs to sgd");
    refused(&["--step-every", "5"], 2, "step-every belongs to schedule step");
    refused(&["--epochs", "1", "--rate", "12"], 2, "too large");
    refused(&["--rate", "-1", "--epochs", "1"], 2, "rate -1 must be above 0");
    refused(&["--rate", "0.0000000001", "--iterations", "1"], 2, "resolution");
    refused(&["--owner", "/nonexistent"], 2, "no such file or folder");
    rows_of_light(&dir.path().join("other"), 20, 0);
    npy(&dir.path().join("other/y.npy"), "20,", &[10.0; 20]);
    let other = dir.path().join("other");
    let other = other.to_str().unwrap();
    refused(&["--owner", other], 2, "label 0 is 10");
    npy(&dir.path().join("other/y.npy"), "20,", &[-1.0; 20]);
    refused(&["--owner", other], 2, "not a class from 0 to 9");
    npy(&dir.path().join("other/y.npy"), "20,", &[1.0; 20]);
    npy(&dir.path().join("other/x.npy"), "20, 1, 28, 28", &[f32::NAN; 20 * 784]);
    refused(&["--owner", other], 2, "not a finite number");
    npy(&dir.path().join("other/y.npy"), "20, 10", &[0.3; 200]);
    npy(&dir.path().join("other/x.npy"), "20, 1, 28, 28", &[0.5; 20 * 784]);
    refused(&["--owner", other], 2, "no distribution");
    refused(&["--resume", "--checkpoint", dir.path().to_str().unwrap()], 2, "no checkpoints");
    let (digits, labels) = (asset("digits-idx3-ubyte.gz"), asset("digits-labels-idx1-ubyte.gz"));
    let alone = |model: &str, labels: &str, more: &[&str], words: &str| {
        let args = [&["train", "--model", model, "--data", &digits, "--labels", labels], more].concat();
        let out = Command::new(env!("CARGO_BIN_EXE_sordino")).args(&args).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).to_string();
        assert!(out.status.code() == Some(2) && text.contains(words), "{args:?}: {text}");
    };
    alone("zoo:lenet", &digits, &[], "digits-idx3-ubyte.gz");
    alone("zoo:nothing", &labels, &[], "nothing");
    alone(&asset("pytorch_training.onnx"), &labels, &["--pool", "max"], "--pool");
    alone("zoo:lenet", &labels, &[], "lower --batch");
    refused(&["--reveal-loss", "--plot", "/nonexistent/loss.svg"], 2, "/nonexistent/loss.svg");
}
