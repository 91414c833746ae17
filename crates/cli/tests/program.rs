//! The program as a user meets it: answers, exit codes, one clear sentence for what is wrong, and no process left behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").join(name)
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.args(args);
    command
}

fn sordino(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn path(p: &Path) -> &str {
    p.to_str().unwrap()
}

fn json(args: &[&str]) -> Value {
    let out = sordino(args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Fails with this exit code and one sentence that holds these words.
fn refused(args: &[&str], code: i32, words: &[&str]) {
    let out = sordino(args);
    let text = String::from_utf8_lossy(&out.stderr).to_string();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
    assert!(words.iter().all(|w| text.contains(w)), "{args:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    // What the argument parser refuses comes with a hint on its usage.
    if !text.starts_with("error:") {
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    }
}

#[test]
fn a_digit_is_recognised_in_both_ways_at_the_planned_cost() {
    let (model, digit) = (asset("mnist.onnx"), asset("digit-7.png"));
    for (parties, protocol) in ["in-process", "processes"].into_iter().flat_map(|p| [(p, "3pc"), (p, "2pc")]) {
        let protocol = ["--protocol", protocol, "--json"];
        let plan = json(&[&["plan", path(&model)], &protocol[..]].concat());
        let args = ["infer", path(&model), "--input", path(&digit), "--check", "--profile", "--parties", parties];
        let got = json(&[&args, &protocol[..]].concat());
        assert_eq!(got["top"][0][0]["class"], 7);
        assert_eq!(got["outputs"][0]["shape"], serde_json::json!([1, 10]));
        assert_eq!((&got["check"]["top1_match"], &got["check"]["overflows"]), (&1.0.into(), &serde_json::json!([])));
        // Two parties' rings are narrower.
        let most = if protocol[1] == "3pc" { 1e-3 } else { 2e-2 };
        assert!(got["check"]["max_abs_err"].as_f64().unwrap() < most);
        assert_eq!(got["bytes"]["payload"], plan["bytes"]);
        assert_eq!(got["bytes"]["by_party"], plan["bytes_by_party"]);
        assert_eq!(got["rounds"], plan["rounds"]);
        if parties == "processes" {
            let (measured, planned) = (got["peak_rss_mb"].as_f64(), plan["peak_memory_mb"].as_f64());
            assert!(measured.unwrap() <= planned.unwrap(), "{measured:?} MB for planned {planned:?}");
        }
        let sum = |report: &Value, field: &str| -> u64 {
            report["layers"].as_array().unwrap().iter().map(|l| l[field].as_u64().unwrap()).sum()
        };
        assert_eq!(sum(&got, "bytes"), got["bytes"]["payload"].as_u64().unwrap());
        let by_layer = |report: &Value, field: &str| -> Vec<Value> {
            report["layers"].as_array().unwrap().iter().map(|l| l[field].clone()).collect()
        };
        // Of two parties each sees its own chain within a layer.
        let fields = if protocol[1] == "3pc" { &["name", "bytes", "rounds"][..] } else { &["name", "bytes"] };
        for field in fields {
            assert_eq!(by_layer(&got, field), by_layer(&plan, field), "{field}");
        }
        assert_eq!(sum(&plan, "bytes"), plan["bytes"].as_u64().unwrap());
        assert!(got["bytes"]["wire"].as_u64() > got["bytes"]["payload"].as_u64());
    }
}

#[test]
fn batches_give_the_same_answers_as_singles() {
    let (model, digits) = (asset("mnist.onnx"), asset("digits-idx3-ubyte.gz"));
    let run = |batch: &str| json(&["infer", path(&model), "--input", path(&digits), "--batch", batch, "--json"]);
    let (single, batched) = (run("1"), run("8"));
    assert_eq!((&single["runs"], &batched["runs"]), (&20.into(), &3.into()));
    let classes = |r: &Value| -> Vec<Value> { (0..20).map(|i| r["top"][i][0]["class"].clone()).collect() };
    assert_eq!(classes(&single), classes(&batched));
    assert_eq!(classes(&single), [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0, 6, 9, 0, 1, 5, 9, 7, 3, 4].map(Value::from));
    let values = |r: &Value| -> Vec<f64> {
        r["outputs"][0]["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    assert!(values(&single).iter().zip(values(&batched)).all(|(a, b)| (a - b).abs() < 1e-3));
}

#[test]
fn faithful_rounding_gives_the_same_bits_every_time() {
    let (model, digit) = (asset("mnist.onnx"), asset("digit-7.png"));
    let run = || json(&["infer", path(&model), "--input", path(&digit), "--faithful", "--json"])["outputs"].clone();
    assert_eq!(run(), run());
}

#[test]
fn a_model_of_two_files_stays_in_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let at = |name: &str| home.join(name);
    let (model, data) = (at("pytorch_export.onnx"), at("pytorch_export.onnx.data"));
    std::fs::copy(asset("pytorch_export.onnx"), &model).unwrap();
    refused(&["inspect", path(&model)], 2, &["pytorch_export.onnx", "missing", "several files stay together"]);
    let whole = std::fs::read(asset("pytorch_export.onnx.data")).unwrap();
    std::fs::write(&data, &whole[..whole.len() - 9]).unwrap();
    refused(&["inspect", path(&model)], 2, &["pytorch_export.onnx.data", "are needed"]);
    std::fs::write(&data, &whole).unwrap();
    // It is read, whatever it is for.
    refused(&["inspect", path(&model)], 2, &["training mode", "export the model for inference"]);
    // A file elsewhere, by its path and by a link.
    std::fs::rename(&data, dir.path().join("elsewhere_xx.onnx.data")).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(dir.path().join("elsewhere_xx.onnx.data"), &data).unwrap();
        refused(&["inspect", path(&model)], 2, &["no regular file in the model's folder"]);
    }
    let name = b"pytorch_export.onnx.data";
    let mut bytes = std::fs::read(&model).unwrap();
    while let Some(i) = bytes.windows(name.len()).position(|w| w == name) {
        bytes[i..i + name.len()].copy_from_slice(b"../elsewhere_x.onnx.data");
    }
    std::fs::write(&model, bytes).unwrap();
    refused(&["inspect", path(&model)], 2, &["outside the model's folder"]);
}

#[test]
fn wrong_inputs_get_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let at = dir.path().join(name);
        std::fs::write(&at, bytes).unwrap();
        at
    };
    let (model, digit) = (asset("mnist.onnx"), asset("digit-7.png"));
    let (model, digit) = (path(&model), path(&digit));
    refused(&["infer", "nowhere.onnx", "--input", digit], 2, &["nowhere.onnx", "no such file"]);
    refused(&["infer", model, "--input", "nowhere.png"], 2, &["nowhere.png", "no such file"]);
    let empty = file("empty.onnx", b"");
    refused(&["inspect", path(&empty)], 2, &["empty.onnx", "graph"]);
    let whole = std::fs::read(model).unwrap();
    let short = file("short.onnx", &whole[..whole.len() / 2]);
    refused(&["infer", path(&short), "--input", digit], 2, &["short.onnx"]);
    let text = file("text.png", b"not a picture");
    refused(&["infer", model, "--input", path(&text)], 2, &["text.png", "picture"]);
    refused(&["infer", model, "--input", digit, "--size", "32"], 2, &["size of 32", "28 by 28"]);
    refused(&["infer", model, "--input", digit, "--channels", "rgb"], 2, &["channels"]);
    refused(&["infer", model, "--input", digit, "--scale", "1"], 2, &["calibrated range"]);
    refused(&["infer", model, "--input", digit, "--top", "0"], 2, &["--top"]);
    refused(&["infer", model, "--input", digit, "--skip", "1"], 2, &["--skip"]);
    refused(&["infer", model, "--input", digit, "--log", "bogus"], 2, &["--log"]);
    refused(&["infer", model, "--input", path(dir.path())], 2, &["folder"]);
    refused(&["infer", model, "--input", digit, "--std", "0"], 2, &["--std"]);
    refused(&["infer", model, "--input", digit, "--margin", "0.1"], 2, &["--margin"]);
    refused(&["infer", model, "--input", digit, "--link", "fast"], 2, &["fast", "lan"]);
    refused(&["infer", model, "--input", digit, "--timeout", "0"], 2, &["--timeout"]);
    refused(&["infer", model, "--input", digit, "--calibration", digit], 2, &["digit-7.png"]);
    let npy = |name: &str, shape: &str, values: &[f32]| {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut raw = b"\x93NUMPY\x01\x00".to_vec();
        raw.extend((header.len() as u16).to_le_bytes());
        raw.extend(header.bytes());
        raw.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        file(name, &raw)
    };
    let small = npy("small.npy", "(1, 1, 5, 5)", &[0.0; 25]);
    refused(&["infer", model, "--input", path(&small)], 2, &["small.npy", "[1, 1, 5, 5]", "[1, 1, 28, 28]"]);
    let nan = npy("nan.npy", "(28, 28)", &[f32::NAN; 784]);
    refused(&["infer", model, "--input", path(&nan)], 2, &["NaN"]);
    let wild = npy("wild.npy", "(28, 28)", &[1e9; 784]);
    refused(&["infer", model, "--input", path(&wild)], 2, &["calibrated range"]);
    refused(&["zoo", "export", "nothing", "-o", "x.onnx"], 2, &["nothing", "resnet50"]);
    refused(&["zoo", "export", "lenet", "-o", "/no/such/folder/x.onnx"], 2, &["/no/such/folder"]);
    refused(&["infer"], 2, &["required"]);
}

#[test]
fn rings_are_said_as_papers_do_or_one_by_one() {
    let model = asset("mnist.onnx");
    let plan = |rings: &[&str]| json(&[&["plan", path(&model), "--protocol", "2pc", "--json"], rings].concat());
    let [paper, each] = [&["--rings", "37/12"][..], &["--narrow-bits", "25", "--wide-bits", "37"]].map(plan);
    assert!(paper["layers"].is_array() && paper["layers"] == each["layers"]);
    assert_ne!(paper["layers"], plan(&[])["layers"]);
    for (rings, why) in [("37", "two numbers"), ("9/37", "4 to 32"), ("64/12", "4 to 32"), ("a/b", "two numbers")] {
        refused(&["plan", path(&model), "--rings", rings], 2, &[why]);
    }
    refused(&["plan", path(&model), "--rings", "37/12", "--wide-bits", "37"], 2, &["cannot be used with"]);
}

#[test]
fn overflows_are_found_by_layer() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("narrow.json");
    let (model, digit) = (asset("mnist.onnx"), asset("digit-7.png"));
    // A calibration that promises far too little of the first layer.
    let text = std::fs::read_to_string(asset("mnist.calibration.json")).unwrap();
    let mut calibration: Value = serde_json::from_str(&text).unwrap();
    let ranges = calibration["ranges"]["values"].as_object_mut().unwrap();
    ranges.iter_mut().filter(|(name, _)| *name != "input").for_each(|(_, r)| *r = serde_json::json!([-1e-4, 1e-4]));
    std::fs::write(&at, calibration.to_string()).unwrap();
    let args = ["infer", path(&model), "--input", path(&digit), "--check", "--json", "--calibration", path(&at)];
    let args = [&args[..], &["--frac-bits", "26", "--narrow-bits", "20"]].concat();
    // The receiver is told, and refuses an answer that is wrong.
    for parties in ["in-process", "processes"] {
        refused(
            &[&args[..], &["--parties", parties]].concat(),
            1,
            &["left the range", "--margin", "--guard off --check"],
        );
    }
    // Of several runs it says which.
    let two = ["--input", path(&digit), path(&digit)];
    refused(&[&args[..1], &args[1..2], &two, &args[4..]].concat(), 1, &["run 1, 2 of 2", "left the range"]);
    let got = json(&[&args[..], &["--guard", "off"]].concat());
    let overflows = got["check"]["overflows"].as_array().unwrap();
    assert!(overflows.iter().any(|o| o.as_str().unwrap().contains("does not fit")), "{got}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_a_closed_pipe_is_not() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let out = command(&["zoo", "list"]).stdout(full).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    refused(&["zoo", "export", "lenet", "-o", "/dev/full"], 2, &["regular file"]);
    let mut child = command(&["zoo", "list"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn zoo_networks_can_be_exported_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("lenet.onnx");
    assert!(sordino(&["zoo", "export", "lenet", "--pool", "max", "--seed", "4", "-o", path(&at)]).status.success());
    let out = sordino(&["inspect", path(&at), "--layers"]);
    let text = String::from_utf8_lossy(&out.stdout).to_string();
    assert!(text.contains("MaxPool") && text.contains("every operator is supported"), "{text}");
    assert!(String::from_utf8_lossy(&sordino(&["zoo", "list"]).stdout).contains("densenet121"));
}

/// Long enough to be in the middle of the protocol, whose run takes about half a minute.
const MIDDLE: Duration = Duration::from_secs(2);

/// When a disturbed run must be over, on a machine that does other things too: a hang takes longer. A silent party is waited for
/// ten seconds, and its beat and last words for three.
const LIMIT: Duration = Duration::from_secs(60);

/// A long run of three servers over slow links, so long after they appeared, and these.
fn started(wait: Duration) -> (Child, Vec<u32>) {
    started_with("3pc", wait)
}

#[expect(clippy::zombie_processes, reason = "the caller waits for it; a failed assertion ends the test process")]
fn started_with(protocol: &str, wait: Duration) -> (Child, Vec<u32>) {
    let parties = if protocol == "2pc" { 1 } else { 3 };
    let (model, digits) = (asset("mnist.onnx"), asset("digits-idx3-ubyte.gz"));
    let args = [
        "infer",
        path(&model),
        "--input",
        path(&digits),
        "--parties",
        "processes",
        "--link",
        "30ms,50Mbps",
        "--timeout",
        "10",
        "--protocol",
        protocol,
    ];
    let child = command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + LIMIT;
    loop {
        let found = children(child.id());
        if found.len() == parties || Instant::now() > end {
            assert_eq!(found.len(), parties, "the children did not start");
            std::thread::sleep(wait);
            return (child, found);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>();
        rest.get(1).and_then(|p| p.parse().ok()) == Some(parent) && rest.first() != Some(&"Z")
    })
    .collect()
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// Waits for the end of a disturbed run: its exit code, one sentence, and no child alive.
fn ended(child: Child, children: &[u32], code: i32, words: &[&str]) {
    ended_within(LIMIT, child, children, code, words);
}

fn ended_within(limit: Duration, child: Child, children: &[u32], code: i32, words: &[&str]) {
    let started = Instant::now();
    let out = child.wait_with_output().unwrap();
    // Besides what is logged.
    let text = String::from_utf8_lossy(&out.stderr).to_string();
    let text: String = text.lines().filter(|l| !l.contains(" WARN ")).map(|l| format!("{l}\n")).collect();
    assert!(started.elapsed() < limit, "it took {:?}", started.elapsed());
    assert_eq!(out.status.code(), Some(code), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(words.iter().all(|w| text.contains(w)), "{text}");
    assert!(out.stdout.is_empty());
    let alive = |pid: &&u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z"));
    let end = Instant::now() + LIMIT;
    while children.iter().any(|c| alive(&c)) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(children.iter().find(alive), None, "a child survived");
}

#[cfg(target_os = "linux")]
#[test]
fn a_killed_party_ends_the_run() {
    let (child, parties) = started(MIDDLE);
    signal("-KILL", parties[1]);
    ended(child, &parties, 1, &["server"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_paused_party_ends_the_run() {
    let (child, parties) = started(MIDDLE);
    signal("-STOP", parties[0]);
    ended(child, &parties, 1, &["sent nothing for 10 seconds"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_party_that_is_paused_early_ends_the_run() {
    // While keys and the model are handed out, or while inputs are waited for without a deadline; starting has ten seconds more.
    // Also while connections are made, by whoever is then waited for.
    for (wait, party) in [(300, 0), (60, 1)] {
        let (child, parties) = started(Duration::from_millis(wait));
        signal("-STOP", parties[party]);
        // Whoever was stopped is named, and not those who waited for it.
        ended_within(LIMIT + Duration::from_secs(30), child, &parties, 1, &[&format!("server {party} ")]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_that_is_killed_or_paused_ends_the_run_of_two() {
    for (name, wait, words) in [
        ("-KILL", MIDDLE, "the client"),
        ("-STOP", MIDDLE, "the client"),
        ("-STOP", Duration::from_millis(300), "the client"),
    ] {
        let (child, parties) = started_with("2pc", wait);
        signal(name, parties[0]);
        ended_within(LIMIT + Duration::from_secs(30), child, &parties, 1, &[words]);
    }
    let (child, parties) = started_with("2pc", MIDDLE);
    signal("-INT", child.id());
    ended(child, &parties, 130, &["interrupted"]);
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_ends_the_run() {
    let (child, parties) = started(MIDDLE);
    signal("-INT", child.id());
    ended(child, &parties, 130, &["interrupted"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_killed_parent_leaves_no_party() {
    let (mut child, parties) = started(MIDDLE);
    signal("-KILL", child.id());
    child.wait().unwrap();
    let end = Instant::now() + LIMIT;
    let alive =
        || parties.iter().any(|p| std::fs::read_to_string(format!("/proc/{p}/stat")).is_ok_and(|s| !s.contains(") Z")));
    while alive() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!alive(), "a party survived its parent");
}

#[test]
fn a_benchmark_prints_and_writes_its_figures() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("results");
    let lines = json(&["bench", "inference", "--only", "lenet", "--runs", "2", "--json", "--out", path(&out)]);
    let planned = {
        let model = dir.path().join("lenet.onnx");
        assert!(sordino(&["zoo", "export", "lenet", "-o", path(&model)]).status.success());
        json(&["plan", path(&model), "--json"])
    };
    let lenet = &lines[0];
    assert_eq!((&lenet["name"], &lenet["pooling"], &lenet["batch"]), (&"lenet".into(), &"average".into(), &1.into()));
    assert_eq!((&lenet["bytes"]["payload"], &lenet["rounds"]), (&planned["bytes"], &planned["rounds"]));
    assert!(lenet["bytes"]["wire"].as_u64() > lenet["bytes"]["payload"].as_u64());
    for field in ["seconds", "peak_rss_mb", "cpu_seconds"] {
        assert!(lenet[field].as_f64().unwrap() > 0.0, "{field}");
    }
    assert_eq!(lines[1]["pooling"], "max");
    for extension in ["csv", "json", "svg"] {
        let text = std::fs::read_to_string(out.join("inference").with_extension(extension)).unwrap();
        assert!(text.contains("lenet"), "{extension}");
    }
    let ops = json(&["bench", "ops", "--only", "ReLU 2^17", "--runs", "1", "--json", "--out", path(&out)]);
    // 287 bits for each element, and the parts' last words.
    assert_eq!((ops[0]["bytes"]["payload"].as_u64().unwrap() * 8) >> 17, 287);
    assert_eq!(ops[0]["rounds"], 5);
}

#[test]
fn a_trace_shows_all_servers() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace.json");
    let (model, digit) = (asset("mnist.onnx"), asset("digit-7.png"));
    for parties in ["in-process", "processes"] {
        assert!(
            sordino(&["infer", path(&model), "--input", path(&digit), "--parties", parties, "--trace", path(&trace)])
                .status
                .success()
        );
        let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        for server in 0..3 {
            let of = |cat: &str| events.iter().filter(|e| e["pid"] == server && e["cat"] == cat).count();
            assert!(of("Relu") >= 2 && of("activity") > 20, "server {server} {parties}");
        }
        assert!(events.iter().filter(|e| e["ph"] == "X").all(|e| e["ts"].as_f64() >= Some(0.0)));
    }
}

#[test]
fn widths_follow_an_error_budget() {
    let dir = tempfile::tempdir().unwrap();
    let (model, digit) = (asset("mnist.onnx"), asset("digit-7.png"));
    let calibration = dir.path().join("c.json");
    let calibrate = |budget: &str| {
        assert!(
            sordino(&[
                "calibrate",
                path(&model),
                "--input",
                path(&digit),
                "--error-budget",
                budget,
                "-o",
                path(&calibration)
            ])
            .status
            .success()
        );
    };
    calibrate("0.5");
    let infer = ["infer", path(&model), "--input", path(&digit), "--json", "--check"];
    let whole = json(&[&infer[..], &["--narrow-bits", "32"]].concat());
    let narrow = json(&[&infer[..], &["--calibration", path(&calibration)]].concat());
    let payload = |v: &serde_json::Value| v["bytes"]["payload"].as_u64().unwrap();
    assert!(payload(&narrow) * 4 < payload(&whole) * 3, "{} {}", payload(&narrow), payload(&whole));
    assert!(narrow["check"]["mean_rel_err"].as_f64().unwrap() <= 0.005);
    assert_eq!(narrow["check"]["overflows"], serde_json::json!([]));
    let refused = sordino(&["calibrate", path(&model), "--input", path(&digit), "--error-budget", "0.000000001"]);
    assert_eq!(refused.status.code(), Some(2));
    // The best class alone asks for less than its score, and both together for what each asks for.
    for protocol in ["3pc", "2pc"] {
        let rings = |budgets: &[&str]| {
            let to = ["--protocol", protocol, "-o", path(&calibration)];
            let done = sordino(&[&["calibrate", path(&model), "--input", path(&digit)], budgets, &to].concat());
            let said = String::from_utf8(done.stdout).unwrap();
            assert!(done.status.success(), "{said}");
            let line = said.lines().last().unwrap().strip_prefix("chosen: rings of ").unwrap().to_owned();
            let bits: Vec<u32> = line.split(' ').filter_map(|w| w.parse().ok()).collect();
            (bits[1], bits[0])
        };
        let top1 = rings(&["--top1-budget", "0"]);
        let error = rings(&["--error-budget", "0.001"]);
        assert!(top1 < error, "{top1:?} {error:?}");
        assert_eq!(rings(&["--top1-budget", "0", "--error-budget", "0.001"]), error);
    }
    for wrong in [&["--top1-budget", "101"][..], &["--margin", "3"]] {
        let refused = sordino(&[&["calibrate", path(&model), "--input", path(&digit)], wrong].concat());
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
    }
}

/// The first thing that a reader compares.
#[test]
fn the_readme_shows_what_is_printed() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let asset = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").join(name);
    let (model, digit) = (asset("mnist.onnx"), asset("digit-7.png"));
    let sent = |line: &str| line.split_once("run(s), ").unwrap().1.split_once(" rounds").unwrap().0.to_string();
    let mut shown = readme.lines().filter(|l| l.contains("sent by all parties")).map(sent);
    for protocol in ["3pc", "2pc"] {
        let args = ["infer", path(&model), "--input", path(&digit), "--check", "--protocol", protocol];
        let text = String::from_utf8(command(&args).output().unwrap().stdout).unwrap();
        let line = text.lines().find(|l| l.contains("sent by all parties")).unwrap();
        assert_eq!(shown.next(), Some(sent(line)));
        assert!(readme.contains("class 7") && text.starts_with("input 0: class 7"));
    }
}

/// A server that gets more of the model than another is not silent while it does, however slow the link.
#[test]
fn a_model_travels_as_long_as_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("lenet.onnx");
    assert!(command(&["zoo", "export", "lenet", "-o", path(&model)]).status().unwrap().success());
    let digit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/digit-7.png");
    // Of the weights 3.4 MB travel to two of the servers, in about eleven seconds.
    let slow = ["--parties", "processes", "--link", "5ms,2500kbps", "--timeout", "6"];
    let out = command(&[&["infer", path(&model), "--input", path(&digit)], &slow[..]].concat()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
