//! A host and its clients: answers, refusals, and a host that lives on whatever a client does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(unix)]

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

fn asset(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").join(name).to_str().unwrap().to_string()
}

fn sordino(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.args(args);
    command
}

/// A host that is ended with its test.
struct Host {
    child: Child,
    out: BufReader<ChildStdout>,
    address: String,
    folder: tempfile::TempDir,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Host {
    fn start(more: &[&str]) -> Self {
        Self::known_to(&[], more)
    }

    /// A host whose clients have names.
    fn known_to(clients: &[&str], more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Closed to others, as it is made.
        let pair = folder.path().join("pair");
        let path = pair.to_str().unwrap();
        let named = clients.iter().flat_map(|name| ["--client", name]);
        let pair: Vec<&str> = ["cert", "pair", "-o", path].into_iter().chain(named).collect();
        assert!(sordino(&pair).output().unwrap().status.success());
        Self::of(folder, more)
    }

    /// A host with the identity in a folder.
    fn of(folder: tempfile::TempDir, more: &[&str]) -> Self {
        let identity = folder.path().join("pair/host.identity");
        let model = asset("mnist.onnx");
        let args =
            ["host", &model, "--listen", "127.0.0.1:0", "--identity", identity.to_str().unwrap(), "--timeout", "5"];
        let mut child = sordino(&[&args, more].concat()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.split_once(" at ").unwrap().1.split_once(": ").unwrap().0.to_string();
        Self { child, out, address, folder }
    }

    fn identity(&self, name: &str) -> PathBuf {
        self.folder.path().join("pair").join(name)
    }

    fn asking(&self, identity: &Path, more: &[&str]) -> Command {
        let digit = asset("digit-7.png");
        let args = ["ask", &self.address, "--identity", identity.to_str().unwrap(), "--timeout", "5"];
        // Whoever only looks needs no input.
        let input: &[&str] = if more.contains(&"--show") { &[] } else { &["--input", &digit] };
        sordino(&[&args[..], input, more].concat())
    }

    fn ask(&self, more: &[&str]) -> Output {
        self.asking(&self.identity("client.identity"), more).output().unwrap()
    }

    fn asked_by(&self, name: &str, more: &[&str]) -> Output {
        self.asking(&self.identity(&format!("{name}.identity")), more).output().unwrap()
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }
}

fn recognised(out: &Output) {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["top"][0][0]["class"], 7);
    assert_eq!(report["outputs"][0]["shape"], serde_json::json!([1, 10]));
}

#[test]
fn answers_come_as_they_are_and_usage_is_checked_before_anybody_is_dialled() {
    let host = Host::start(&[]);
    let digits = asset("digits-idx3-ubyte.gz");
    let out = host.ask(&["--input", &digits, "--limit", "3"]);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("input 0: class") && text.contains("input 2: class") && text.lines().count() == 4, "{text}");
    refused(&host.ask(&["--input", "nowhere.png"]), 2, "nowhere.png: no such file");
    let host = host.identity("client.identity");
    let wrong = ["host", &asset("mnist.onnx"), "--listen", "127.0.0.1:0", "--identity", host.to_str().unwrap()];
    refused(&sordino(&wrong).output().unwrap(), 2, "not the identity of a host");
}

fn refused(out: &Output, code: i32, words: &str) {
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{text}");
    assert!(text.contains(words), "{text}");
    assert!(out.stdout.is_empty());
}

#[test]
fn a_host_answers_one_client_after_the_other() {
    let mut host = Host::start(&["--clients", "2"]);
    let offered = host.ask(&["--show"]);
    assert!(String::from_utf8_lossy(&offered.stdout).contains("mnist.onnx: 12 layers, [1, 1, 28, 28] of input"));
    assert!(host.says().contains("looked"));
    let offered: Value = serde_json::from_slice(&host.ask(&["--show", "--json"]).stdout).unwrap();
    assert_eq!((&offered["wide_bits"], &offered["transfers"]), (&37.into(), &"silent".into()));
    assert!(host.says().contains("client looked"));
    recognised(&host.ask(&["--json"]));
    assert!(host.says().starts_with("client: answered 1 queries"));
    let more = asset("digits-idx3-ubyte.gz");
    let both = host.ask(&["--input", &more, "--limit", "3", "--json"]);
    assert!(both.status.success());
    assert!(host.says().starts_with("client: answered 3 queries"));
    assert!(host.child.wait().unwrap().success());
}

#[test]
fn strangers_and_what_is_too_much_are_refused_and_the_host_lives() {
    let host = Host::start(&["--queries", "2"]);
    // An identity of another authority, the host's own role, a file that is none.
    let other = Host::start(&[]);
    refused(&host.asking(&other.identity("client.identity"), &[]).output().unwrap(), 1, "certificate");
    refused(&host.asking(&host.identity("host.identity"), &[]).output().unwrap(), 2, "not the identity of a client");
    refused(&host.asking(Path::new(&asset("digit-7.png")), &[]).output().unwrap(), 2, "no identity");
    let digits = asset("digits-idx3-ubyte.gz");
    refused(&host.ask(&["--input", &digits, "--limit", "3"]), 2, "offers 2 on one connection");
    refused(&host.ask(&["--most-megabytes", "1"]), 2, "--most-megabytes");
    // Nobody's connection, left open.
    let _silent = TcpStream::connect(&host.address).unwrap();
    recognised(&host.ask(&["--json"]));
}

#[test]
fn a_client_that_is_killed_or_paused_does_no_harm() {
    let host = Host::start(&[]);
    let digits = asset("digits-idx3-ubyte.gz");
    for name in ["-KILL", "-STOP"] {
        let mut child = host
            .asking(&host.identity("client.identity"), &["--input", &digits])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(700));
        assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
        // Others are served meanwhile.
        recognised(&host.ask(&["--json"]));
        let _ = child.kill();
        child.wait().unwrap();
    }
}

#[test]
fn clients_wait_for_their_turn_and_are_served_at_once() {
    let mut host = Host::known_to(&["alice", "bob", "carol"], &["--sessions", "1", "--clients", "3"]);
    let digits = asset("digits-idx3-ubyte.gz");
    let ask = |name: &str, more: &[&str]| {
        let mut command = host.asking(&host.identity(&format!("{name}.identity")), more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // Alice asks often enough to be served when the others come.
    let alice = ask("alice", &["--input", &digits, "--json"]);
    std::thread::sleep(Duration::from_millis(500));
    let others = ["bob", "carol"].map(|name| ask(name, &["--json"]));
    let mut waited = 0;
    for child in others {
        let out = child.wait_with_output().unwrap();
        recognised(&out);
        waited += usize::from(String::from_utf8_lossy(&out.stderr).contains("waiting for"));
    }
    assert!(waited > 0);
    assert!(alice.wait_with_output().unwrap().status.success());
    let served: Vec<String> = (0..3).map(|_| host.says()).collect();
    for name in ["alice", "bob", "carol"] {
        assert!(served.iter().any(|line| line.starts_with(&format!("{name}: answered"))), "{served:?}");
    }
    assert!(host.child.wait().unwrap().success());

    // Two at once: whoever comes while another stands still is answered.
    let host = Host::known_to(&["alice", "bob"], &["--sessions", "2"]);
    let identity = host.identity("alice.identity");
    let mut alice =
        host.asking(&identity, &["--input", &digits]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(Command::new("kill").args(["-STOP", &alice.id().to_string()]).status().unwrap().success());
    recognised(&host.asked_by("bob", &["--json"]));
    let _ = alice.kill();
    alice.wait().unwrap();
}

/// A client who comes twice where there is one place for it is let in when it has left; others are not kept out by it.
#[test]
fn a_client_takes_half_of_a_house_at_most() {
    let host = Host::known_to(&["alice", "bob"], &["--sessions", "1", "--waiting", "1"]);
    let digits = asset("digits-idx3-ubyte.gz");
    let ask = |name: &str, more: &[&str]| {
        let identity = host.identity(&format!("{name}.identity"));
        let args = ["ask", &host.address, "--identity", identity.to_str().unwrap(), "--timeout", "60", "--json"];
        let mut command = sordino(&[&args[..], more].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let digit = asset("digit-7.png");
    let first = ask("alice", &["--input", &digits, "--limit", "60"]);
    std::thread::sleep(Duration::from_millis(300));
    let others = [ask("alice", &["--input", &digit]), ask("bob", &["--input", &digit])];
    others.into_iter().for_each(|child| recognised(&child.wait_with_output().unwrap()));
    assert!(first.wait_with_output().unwrap().status.success());
}

#[test]
fn queries_are_prepared_as_far_as_the_host_has_memory() {
    let host = Host::start(&["--prepared-megabytes", "60"]);
    let digits = asset("digits-idx3-ubyte.gz");
    let out = host.ask(&["--prepare", "2", "--json"]);
    recognised(&out);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    // One input, one query.
    assert_eq!(report["prepared"]["queries"], 1);
    assert!(report["prepared"]["bytes"].as_u64().unwrap() > 100_000);
    let plain: Value = serde_json::from_slice(&host.ask(&["--json"]).stdout).unwrap();
    for figure in ["bytes_sent", "rounds"] {
        assert!(report[figure].as_u64().unwrap() < plain[figure].as_u64().unwrap(), "{figure}");
    }
    assert!(plain["prepared"].is_null());
    refused(&host.ask(&["--input", &digits, "--prepare", "50", "--json"]), 2, "the host has memory for");
    recognised(&host.ask(&["--json"]));
}

#[test]
fn budgets_last_over_connections_and_restarts_and_names_can_be_revoked() {
    let ledger = tempfile::tempdir().unwrap();
    let ledger = ledger.path().join("queries.json");
    let counted = ["--budget", "3", "--ledger", ledger.to_str().unwrap()];
    let mut host = Host::known_to(&["alice", "bob"], &counted);
    let digits = asset("digits-idx3-ubyte.gz");
    assert!(host.asked_by("alice", &["--input", &digits, "--limit", "2"]).status.success());
    let offered: Value = serde_json::from_slice(&host.asked_by("alice", &["--show", "--json"]).stdout).unwrap();
    assert_eq!((&offered["queries"], &offered["queries_left"]), (&1000.into(), &1.into()));
    refused(&host.asked_by("alice", &["--input", &digits, "--limit", "2", "--json"]), 2, "this client has 1 left");
    recognised(&host.asked_by("alice", &["--json"]));
    refused(&host.asked_by("alice", &["--json"]), 2, "this client has 0 left");
    // Somebody else's queries are their own.
    recognised(&host.asked_by("bob", &["--json"]));

    // Another process, with one more client and one fewer.
    let folder = std::mem::replace(&mut host.folder, tempfile::tempdir().unwrap());
    drop(host);
    let pair = folder.path().join("pair");
    let path = pair.to_str().unwrap();
    assert!(sordino(&["cert", "pair", "-o", path, "--client", "carol"]).output().unwrap().status.success());
    refused(&sordino(&["cert", "pair", "-o", path, "--client", "carol"]).output().unwrap(), 2, "never replaced");
    refused(&sordino(&["cert", "pair", "-o", path, "--client", "c/d"]).output().unwrap(), 2, "c/d");
    let host = Host::of(folder, &[&counted[..], &["--revoke", "bob"]].concat());
    refused(&host.asked_by("alice", &["--json"]), 2, "this client has 0 left");
    refused(&host.asked_by("bob", &["--json"]), 1, "does not let this client in");
    recognised(&host.asked_by("carol", &["--json"]));
    let counted: Value = serde_json::from_slice(&std::fs::read(&ledger).unwrap()).unwrap();
    assert_eq!(counted, serde_json::json!({ "alice": 3, "bob": 1, "carol": 1 }));
}

#[test]
fn identities_are_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert!(sordino(&["cert", "pair", "-o", path]).output().unwrap().status.success());
    let before = std::fs::read(folder.path().join("host.identity")).unwrap();
    refused(&sordino(&["cert", "pair", "-o", path]).output().unwrap(), 2, "never replaced");
    assert_eq!(std::fs::read(folder.path().join("host.identity")).unwrap(), before);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(folder.path().join("client.identity")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Nobody can sign another client of this host.
    refused(&sordino(&["cert", "pair", "-o", path, "--client", "alice"]).output().unwrap(), 2, "was not kept");
}
