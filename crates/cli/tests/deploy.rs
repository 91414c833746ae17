//! docs/deploy.md, followed to the letter: on hosts of their own (network namespaces) where the system lets us make them, else on addresses of the
//! loopback interface.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const HOSTS: [&str; 6] = ["server-0", "server-1", "server-2", "alice", "bob", "authority"];

/// One step of the document.
enum Step {
    /// A command on a host, and what it prints.
    Run { host: String, command: String, prints: Vec<String> },
    /// A file on a host.
    File { path: String, content: String },
}

/// The steps of a document, in their order.
fn steps(text: &str) -> Vec<Step> {
    let (mut steps, mut lines) = (vec![], text.lines());
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|l| !l.starts_with("```")).collect();
        if let Some(path) = info.strip_prefix("toml file=") {
            steps.push(Step::File { path: path.into(), content: block.join("\n") });
        }
        if info != "console" {
            continue;
        }
        for line in block {
            let prompt = line.split_once("$ ").filter(|(host, _)| HOSTS.contains(host));
            match (prompt, steps.last_mut()) {
                (Some((host, command)), _) => {
                    steps.push(Step::Run { host: host.into(), command: command.into(), prints: vec![] });
                }
                (None, Some(Step::Run { prints, .. })) => prints.push(line.into()),
                _ => panic!("no prompt: {line}"),
            }
        }
    }
    steps
}

/// A line without what differs from time to time: ids, seconds, threads, and the last digits of scores.
fn plain(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let differs = |i: usize| {
        let (word, next) = (words[i], words.get(i + 1).map_or("", |w| w.trim_end_matches([';', ','])));
        word.len() >= 32 && word.trim_end_matches(',').bytes().all(|b| b.is_ascii_hexdigit())
            || ["s", "threads"].contains(&next) && word.parse::<f64>().is_ok()
            || word.starts_with("(-")
            || word.starts_with('(') && word[1..].starts_with(|c: char| c.is_ascii_digit())
    };
    (0..words.len()).map(|i| if differs(i) { "#" } else { words[i] }).collect::<Vec<_>>().join(" ")
}

/// A server that runs, and what it has printed.
struct Serving(Child, Arc<Mutex<Vec<String>>>);

/// The machines.
struct World {
    folder: tempfile::TempDir,
    /// A name for namespaces of this test alone, if there are any.
    namespaces: Option<String>,
    running: BTreeMap<String, Serving>,
}

fn sh(command: &str) -> bool {
    Command::new("sh")
        .args(["-c", command])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

impl World {
    /// Hosts with their folders.
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for host in HOSTS {
            std::fs::create_dir(folder.path().join(host)).unwrap();
        }
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let tool = |name: &str, text: &str| {
            std::fs::write(bin.join(name), text).unwrap();
            std::fs::set_permissions(bin.join(name), PermissionsExt::from_mode(0o755)).unwrap();
        };
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sordino"), bin.join("sordino")).unwrap();
        // From one host's folder to another's.
        tool("scp", "#!/bin/sh\nto=$3\nexec cp -rp \"$2\" \"$HOSTS/${to%%:*}/${to#*:}\"\n");
        let name = format!("{name}{}", std::process::id() % 10_000);
        let mut world = Self { folder, namespaces: None, running: BTreeMap::new() };
        let made = sh(&format!("ip link add {name} type bridge && ip link set {name} up"));
        world.namespaces = made.then(|| name.clone());
        if made {
            let all = HOSTS.iter().enumerate().all(|(i, host)| {
                let (space, own, other) = (format!("{name}-{host}"), format!("{name}i{i}"), format!("{name}o{i}"));
                sh(&format!(
                    "ip netns add {space} && ip link add {own} type veth peer name {other} && ip link set {own} netns {space} \
                     && ip link set {other} master {name} && ip link set {other} up && ip netns exec {space} ip link set lo up \
                     && ip netns exec {space} ip address add 10.77.0.{}/24 dev {own} && ip netns exec {space} ip link set {own} up",
                    10 + i
                ))
            });
            if !all {
                world.remove();
            }
        }
        if world.namespaces.is_none() {
            eprintln!("no network namespaces here: hosts are addresses of the loopback interface");
        }
        for file in ["mnist.onnx", "mnist.calibration.json", "mnist.toml"] {
            std::fs::copy(asset(file), world.folder.path().join("alice").join(file)).unwrap();
        }
        std::fs::copy(asset("digit-7.png"), world.folder.path().join("bob/digit-7.png")).unwrap();
        for (host, file) in ["alice", "bob"]
            .iter()
            .flat_map(|h| ["digits-idx3-ubyte.gz", "digits-labels-idx1-ubyte.gz"].map(|f| (h, f)))
        {
            std::fs::copy(asset(file), world.folder.path().join(host).join(file)).unwrap();
        }
        world
    }

    fn remove(&mut self) {
        if let Some(name) = self.namespaces.take() {
            for host in HOSTS {
                sh(&format!("ip netns del {name}-{host}"));
            }
            sh(&format!("ip link del {name}"));
        }
    }

    /// Addresses are those of the document, or others of this machine.
    fn here(&self, text: &str) -> String {
        if self.namespaces.is_some() { text.into() } else { text.replace("10.77.0.", "127.77.0.") }
    }

    fn command(&self, host: &str, command: &str) -> Command {
        let mut shell = match &self.namespaces {
            Some(name) => {
                let mut ip = Command::new("ip");
                ip.args(["netns", "exec", &format!("{name}-{host}"), "sh", "-c"]);
                ip
            }
            None => {
                let mut sh = Command::new("sh");
                sh.arg("-c");
                sh
            }
        };
        let bin = self.folder.path().join("bin");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        // Whatever the user's own mask is, keys and shares are closed.
        shell.arg(format!("exec {}", self.here(command))).current_dir(self.folder.path().join(host));
        shell.env("PATH", path).env("HOSTS", self.folder.path());
        shell
    }

    fn serve(&mut self, host: &str, command: &str) -> Vec<String> {
        let mut child = self.command(host, command).stdout(Stdio::piped()).spawn().unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (out, kept) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        let until = Instant::now() + Duration::from_secs(20);
        while lines.lock().unwrap().is_empty() {
            assert!(Instant::now() < until && child.try_wait().unwrap().is_none(), "{host} does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        let printed = lines.lock().unwrap().clone();
        self.running.insert(host.into(), Serving(child, lines));
        printed
    }

    fn stop(&mut self, host: &str) -> Vec<String> {
        let Serving(mut child, lines) = self.running.remove(host).unwrap();
        assert!(sh(&format!("kill -TERM {}", child.id())));
        assert!(child.wait().unwrap().success());
        std::thread::sleep(Duration::from_millis(100));
        lines.lock().unwrap()[1..].to_vec()
    }

    fn follow(&mut self, text: &str) {
        for step in steps(text) {
            let (host, command, prints) = match step {
                Step::File { path, content } => {
                    std::fs::write(self.folder.path().join(path), self.here(&content)).unwrap();
                    continue;
                }
                Step::Run { host, command, prints } => (host, command, prints),
            };
            if command.starts_with("curl ") && !sh("command -v curl") {
                eprintln!("no curl here: skipped");
                continue;
            }
            let printed = match command.strip_suffix(" &") {
                Some(served) => self.serve(&host, served),
                None if command == "kill -TERM %1" => self.stop(&host),
                None => {
                    let done = self.command(&host, &command).output().unwrap();
                    let errors = String::from_utf8_lossy(&done.stderr);
                    assert!(done.status.success(), "{host}$ {command}\n{errors}");
                    String::from_utf8_lossy(&done.stdout).lines().map(str::to_string).collect()
                }
            };
            let printed: Vec<String> = printed.iter().map(|l| plain(l)).collect();
            for line in &prints {
                assert!(
                    printed.contains(&plain(&self.here(line))),
                    "{host}$ {command}\nprints {printed:?}\nand not {line}"
                );
            }
        }
    }

    fn ask(&self, host: &str, command: &str) -> String {
        let done = self.command(host, command).output().unwrap();
        assert!(done.status.success(), "{host}$ {command}\n{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for Serving(mut child, _) in std::mem::take(&mut self.running).into_values() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.remove();
    }
}

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").join(name)
}

fn document() -> String {
    let mut text = String::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/deploy.md");
    std::fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_document_is_true() {
    let text = document();
    assert!(steps(&text).len() > 25);
    World::new("sdep").follow(&text);
}

#[test]
fn over_a_slow_network() {
    let mut world = World::new("sslw");
    // 40 ms and 100 Mbit/s between servers: by the program's own shaping, which needs nothing of the system.
    let slow = "[policy]\npush = [\"alice\"]\n\n[shape]\nmilliseconds = 40.0\nmegabits = 100.0";
    let text = document().replace("[policy]\npush = [\"alice\"]", slow);
    assert_eq!(text.matches("megabits").count(), 3);
    world.follow(text.split_once("## A question").unwrap().0);
    let before = Instant::now();
    let answer = world.ask("bob", "sordino submit mnist --to sordino/cluster.toml --input digit-7.png --wait");
    assert!(answer.starts_with("input 0: class 7 "), "{answer}");
    // Some fifty rounds.
    assert!(before.elapsed() > Duration::from_millis(50 * 40), "{:?}", before.elapsed());
}
