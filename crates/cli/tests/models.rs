//! Real models on real data. The files are not part of the project (their licences do not allow it); the environment
//! variable `SORDINO_ASSETS` says where they are. Without it these tests say that they were skipped, and why.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder, or nothing after saying so.
fn assets(needed: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SORDINO_ASSETS").map(PathBuf::from);
    match folder.filter(|f| f.join(needed).exists()) {
        Some(folder) => Some(folder),
        None => {
            // Straight to standard error: what a passing test prints is not shown.
            let line = format!("skipped: {needed} is not there; set SORDINO_ASSETS to a folder that holds it\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
            None
        }
    }
}

fn infer(model: &Path, inputs: &[PathBuf], more: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.arg("infer").arg(model).arg("--input").args(inputs).args(["--check", "--json"]).args(more);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}: {}", model.display(), String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn number(report: &Value, field: &str) -> f64 {
    report["check"][field].as_f64().unwrap()
}

/// CIFAR-10 test images, one per row of a picture, as an array file in the model's range.
fn cifar(assets: &Path, count: usize, mean: [f32; 3], std: [f32; 3], scale: f32) -> tempfile::NamedTempFile {
    let picture = image::open(assets.join("cifar10/test_1000.png")).unwrap().to_rgb8();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, 3, 32, 32), }}\n");
    let mut raw = b"\x93NUMPY\x01\x00".to_vec();
    raw.extend((header.len() as u16).to_le_bytes());
    raw.extend(header.bytes());
    for i in 0..count as u32 {
        for c in 0..3 {
            for p in 0..1024 {
                let value = f32::from(picture.get_pixel(p, i)[c]);
                raw.extend(((value * scale - mean[c]) / std[c]).to_le_bytes());
            }
        }
    }
    let file = tempfile::Builder::new().suffix(".npy").tempfile().unwrap();
    std::fs::write(file.path(), raw).unwrap();
    file
}

fn photographs(assets: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(assets.join("imagenet/photos")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

const MODES: [&[&str]; 2] = [&["--parties", "in-process"], &["--parties", "processes"]];

#[test]
fn minionn_on_a_thousand_digits() {
    let Some(assets) = assets("mnist/t10k-images-idx3-ubyte.gz") else { return };
    for mode in MODES {
        let more = [mode, &["--limit", "1000"]].concat();
        let report = infer(
            &assets.join("mnist_models/minionn_mnist.onnx"),
            &[assets.join("mnist/t10k-images-idx3-ubyte.gz")],
            &more,
        );
        assert!(number(&report, "top1_match") >= 0.999);
    }
}

#[test]
fn cifar_networks_on_two_hundred_images() {
    let Some(assets) = assets("cifar10/test_1000.png") else { return };
    let plain = cifar(&assets, 200, [0.0; 3], [1.0; 3], 1.0);
    let normal = cifar(&assets, 200, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 1.0 / 255.0);
    for mode in MODES {
        let more = [mode, &["--batch", "20"]].concat();
        for (model, data) in [("keras_cnn_cifar10", &plain), ("resnet20_cifar10", &normal)] {
            let model = assets.join(format!("cifar10_models/{model}.onnx"));
            let report = infer(&model, &[data.path().into()], &more);
            assert!(
                number(&report, "top1_match") >= 0.995 && number(&report, "mean_rel_err") < 2e-4,
                "{}",
                report["check"]
            );
            assert_eq!(report["check"]["overflows"], serde_json::json!([]));
        }
    }
}

#[test]
fn squeezenet_and_open_nsfw_on_photographs() {
    let Some(assets) = assets("imagenet/photos") else { return };
    let photos = photographs(&assets);
    for mode in MODES {
        let caffe = [mode, &["--channels", "bgr", "--mean", "103.939,116.779,123.68"]].concat();
        let report = infer(&assets.join("imagenet/squeezenet1.1_imagenet.onnx"), &photos, &caffe);
        assert_eq!(number(&report, "top1_match"), 1.0);
        let nsfw = [mode, &["--channels", "bgr", "--mean", "104,117,123", "--layout", "nhwc"]].concat();
        let report = infer(&assets.join("open_nsfw/open-nsfw_resnet50thin.onnx"), &photos, &nsfw);
        assert!(number(&report, "max_abs_err") < 0.002, "{}", report["check"]);
    }
}

#[test]
fn zoo_networks_on_photographs() {
    let Some(assets) = assets("imagenet/photos") else { return };
    let photos = &photographs(&assets)[..2];
    let folder = tempfile::tempdir().unwrap();
    for name in ["resnet50", "densenet121"] {
        let model = folder.path().join(format!("{name}.onnx"));
        let export = Command::new(env!("CARGO_BIN_EXE_sordino"))
            .args(["zoo", "export", name, "-o"])
            .arg(&model)
            .output()
            .unwrap();
        assert!(export.status.success());
        for mode in MODES {
            let usual = ["--scale", "0.00392156862745098", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"];
            let report = infer(&model, photos, &[mode, &usual].concat());
            assert!(number(&report, "mean_rel_err") <= 2e-4, "{name}: {}", report["check"]);
            assert_eq!(number(&report, "top1_match"), 1.0, "{name}");
            let mb = report["bytes"]["payload"].as_f64().unwrap() / 2e6;
            assert!(name != "resnet50" || mb <= 900.0, "{mb} MB for each image");
        }
    }
}

#[test]
fn the_light_graphs_import_and_run() {
    let Some(assets) = assets("light") else { return };
    let photo = [photographs(&assets)[0].clone()];
    let mut models: Vec<PathBuf> = std::fs::read_dir(assets.join("light"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
        .collect();
    models.sort();
    // Their weights are constants: values grow without bound, so only that they run is asked.
    for model in models {
        let report = infer(&model, &photo, &["--scale", "0.01"]);
        assert!(report["outputs"][0]["values"].as_array().is_some_and(|v| v.len() == 1000), "{}", model.display());
    }
}
