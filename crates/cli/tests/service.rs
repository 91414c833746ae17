//! Three server processes that are killed, stopped and started again while they work: nothing wrong is answered, and nothing is lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(unix)]

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Seconds a server waits for another.
const DEADLINE: f64 = 2.0;

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").join(name)
}

fn sordino(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.args(args);
    command
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

struct World {
    folder: tempfile::TempDir,
    servers: [Option<Child>; 3],
}

impl Drop for World {
    fn drop(&mut self) {
        for server in self.servers.iter_mut().flatten() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
        done(&sordino(&["cert", "ca", "-o", &at("ca")]).output().unwrap());
        // Ports that are free on an address of this test alone, so that nobody takes them before the servers do.
        static WORLDS: AtomicU8 = AtomicU8::new(0);
        let (world, id) = (WORLDS.fetch_add(1, Ordering::Relaxed), std::process::id());
        let own = format!("127.{}.{}.{}:0", 100 + world, id >> 8 & 255, id & 255);
        let free: Vec<TcpListener> = (0..6).map(|_| TcpListener::bind(&own).unwrap()).collect();
        let ports: Vec<String> = free.iter().map(|p| p.local_addr().unwrap().to_string()).collect();
        drop(free);
        for party in 0..3 {
            let name = format!("{party}");
            done(&sordino(&["cert", "server", &name, "--ca", &at("ca"), "-o", &at(&name)]).output().unwrap());
            let config = format!(
                "party = {party}\nstore = \"store\"\nclients = {:?}\npeers = {:?}\nservers = {:?}\nthreads = 1\n\
                 [tls]\ncertificate = \"server-{party}.pem\"\nkey = \"server-{party}.key\"\nauthorities = \"ca.pem\"\n\
                 [limits]\npeer_seconds = {DEADLINE:?}\n[policy]\npush = [\"alice\"]\n",
                ports[party],
                ports[3 + party],
                &ports[3..]
            );
            std::fs::write(folder.path().join(name).join("server.toml"), config).unwrap();
        }
        done(&sordino(&["cert", "client", "alice", "--ca", &at("ca"), "-o", &at("alice")]).output().unwrap());
        let servers: String = ports[..3].iter().map(|p| format!("[[servers]]\naddress = {p:?}\n")).collect();
        let tls = "[tls]\ncertificate = \"alice.pem\"\nkey = \"alice.key\"\nauthorities = \"ca.pem\"\n";
        std::fs::write(folder.path().join("alice/cluster.toml"), servers + tls).unwrap();
        let mut world = Self { folder, servers: [None, None, None] };
        (0..3).for_each(|party| world.start(party));
        done(&world.alice(&["push", asset("mnist.onnx").to_str().unwrap()]).output().unwrap());
        world
    }

    fn config(&self, party: usize) -> String {
        self.folder.path().join(format!("{party}/server.toml")).to_str().unwrap().into()
    }

    fn start(&mut self, party: usize) {
        let config = self.config(party);
        let mut server =
            sordino(&["serve", "--config", &config, "--log", "off"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with(&format!("server {party}: clients at ")), "{line}");
        self.servers[party] = Some(server);
    }

    fn kill(&mut self, party: usize) {
        let mut server = self.servers[party].take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    fn signal(&self, party: usize, signal: &str) {
        let id = self.servers[party].as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    fn alice(&self, args: &[&str]) -> Command {
        let to = self.folder.path().join("alice/cluster.toml");
        let mut command = sordino(args);
        command.args(["--to", to.to_str().unwrap(), "--timeout", "20"]);
        command
    }

    fn submit(&self, times: usize) -> Vec<String> {
        let digit = asset("digit-7.png");
        let inputs = vec![digit.to_str().unwrap(); times];
        let args = [&["submit", "mnist", "--input"][..], &inputs].concat();
        done(&self.alice(&args).output().unwrap()).lines().map(str::to_string).collect()
    }

    fn assert_answered(&self, job: &str) {
        let fetched = self.alice(&["fetch", job, "--patience", "600", "--json"]).output().unwrap();
        let answer: Value = serde_json::from_str(&done(&fetched)).unwrap();
        assert_eq!(answer["top"][0]["class"], 7, "{answer}");
    }

    fn jobs(&self) -> Vec<Value> {
        serde_json::from_str(&done(&self.alice(&["jobs", "--json"]).output().unwrap())).unwrap()
    }

    /// Every store is whole once its server is gone.
    fn assert_whole(&mut self) {
        for party in 0..3 {
            self.kill(party);
            let checked = done(&sordino(&["store", "check", "--config", &self.config(party)]).output().unwrap());
            assert!(checked.contains("all are whole"), "{checked}");
        }
    }
}

#[test]
fn killed_at_any_moment() {
    let mut world = World::new();
    for round in 0..15u64 {
        let jobs = world.submit(2);
        std::thread::sleep(Duration::from_millis(round));
        let party = round as usize % 3;
        world.kill(party);
        world.start(party);
        for job in &jobs {
            world.assert_answered(job);
            done(&world.alice(&["forget", job]).output().unwrap());
        }
    }
    world.assert_whole();
}

#[test]
fn a_training_goes_on_after_every_kill() {
    let mut world = World::new();
    // A checkpoint after every iteration.
    for party in 0..3 {
        let path = world.config(party);
        let text = std::fs::read_to_string(&path).unwrap().replace("[limits]\n", "[limits]\ncheckpoint_seconds = 0\n");
        std::fs::write(&path, text).unwrap();
        world.kill(party);
        world.start(party);
    }
    let (x, y) = (asset("digits-idx3-ubyte.gz"), asset("digits-labels-idx1-ubyte.gz"));
    let out = world.folder.path().join("trained.onnx");
    let train = |world: &World, more: &[&str]| {
        let data =
            ["--data", x.to_str().unwrap(), "--labels", y.to_str().unwrap(), "-o", out.to_str().unwrap(), "--json"];
        let args =
            ["train", "--model", "zoo:lenet", "--name", "lenet", "--batch", "4", "--iterations", "24", "--reveal-loss"];
        world.alice(&[&args[..], &data, more].concat()).output().unwrap()
    };
    let begun: Value = serde_json::from_str(&done(&train(&world, &["--detach"]))).unwrap();
    assert_eq!((begun["name"].as_str(), begun["iterations"].as_u64()), (Some("lenet"), Some(24)));
    // Whoever begins it once more is told that it is there; other options are another training.
    assert_eq!(train(&world, &[]).status.code(), Some(2));
    assert_eq!(train(&world, &["--rate", "0.02", "--resume"]).status.code(), Some(2));
    for (i, party) in [1, 2, 0, 1, 0].into_iter().enumerate() {
        std::thread::sleep(Duration::from_millis(150 * i as u64));
        world.kill(party);
        world.start(party);
    }
    let report: Value = serde_json::from_str(&done(&train(&world, &["--resume"]))).unwrap();
    let numbers: Vec<u64> = report["loss_iterations"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=24).collect::<Vec<_>>(), "every loss once");
    assert!(out.exists() && report["bytes"]["wire"].as_u64() > report["bytes"]["payload"].as_u64(), "{report}");
    let digit = asset("digit-7.png");
    let asked =
        world.alice(&["submit", "lenet", "--wait", "--json", "--input", digit.to_str().unwrap()]).output().unwrap();
    let answer: Value = serde_json::from_str(&done(&asked)).unwrap();
    assert_eq!(answer["answers"][0]["outputs"][0]["values"].as_array().map(Vec::len), Some(10), "{answer}");
    world.assert_whole();
}

#[test]
fn stopped_for_a_while() {
    let mut world = World::new();
    for party in [1, 2, 0] {
        // Work enough to be in the middle of.
        let jobs = world.submit(40);
        world.signal(party, "-STOP");
        if party > 0 {
            // On a machine of its own it takes the deadline and a fraction of a second; here others run beside it.
            let until = Instant::now() + Duration::from_secs_f64(DEADLINE + 30.0);
            loop {
                let jobs = world.jobs();
                let told =
                    jobs.iter().any(|j| j["note"].as_str().is_some_and(|n| n.contains(&format!("server {party}"))));
                if told || jobs.iter().all(|j| j["state"] == "done") {
                    break;
                }
                assert!(Instant::now() < until, "{jobs:?}");
                std::thread::sleep(Duration::from_millis(50));
            }
        } else {
            std::thread::sleep(Duration::from_secs_f64(DEADLINE + 0.5));
        }
        world.signal(party, "-CONT");
        for job in jobs.iter().step_by(8).chain(jobs.last()) {
            world.assert_answered(job);
        }
    }
    world.assert_whole();
}

#[test]
fn all_three_in_the_middle_of_a_queue() {
    let mut world = World::new();
    let jobs = world.submit(50);
    (0..3).for_each(|party| world.kill(party));
    (0..3).for_each(|party| world.start(party));
    for job in &jobs {
        world.assert_answered(job);
    }
    let all = world.jobs();
    assert_eq!((all.len(), all.iter().filter(|j| j["state"] == "done").count()), (50, 50));
    world.assert_whole();
}

#[test]
fn a_server_ends_when_it_is_told() {
    let mut world = World::new();
    let jobs = world.submit(5);
    for party in [2, 1, 0] {
        let before = Instant::now();
        world.signal(party, "-TERM");
        assert!(world.servers[party].take().unwrap().wait().unwrap().success());
        assert!(before.elapsed() < Duration::from_secs(8), "{:?}", before.elapsed());
        world.start(party);
    }
    for job in &jobs {
        world.assert_answered(job);
    }
    // A second server on the same store, and a check of a store in use, are refused.
    let second = sordino(&["serve", "--config", &world.config(0), "--check"]).output().unwrap();
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process"));
}

#[test]
fn certificates_are_read_again() {
    let mut world = World::new();
    let at = |name: &str| world.folder.path().join(name).to_str().unwrap().to_string();
    done(&sordino(&["cert", "server", "0", "--ca", &at("ca"), "-o", &at("0"), "--renew"]).output().unwrap());
    world.signal(0, "-HUP");
    std::thread::sleep(Duration::from_millis(200));
    for job in world.submit(1) {
        world.assert_answered(&job);
    }
    // One that cannot be read changes nothing.
    std::fs::write(world.folder.path().join("0/server-0.pem"), "nothing").unwrap();
    world.signal(0, "-HUP");
    std::thread::sleep(Duration::from_millis(200));
    for job in world.submit(1) {
        world.assert_answered(&job);
    }
    world.assert_whole();
}

/// What a server holds: files, threads and megabytes.
fn held(id: u32) -> [usize; 3] {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{id}/{what}")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    let kilobytes: usize = resident.trim().split(' ').next().unwrap().parse().unwrap();
    [count("fd"), count("task"), kilobytes / 1024]
}

/// Connections that say nothing, to both ports: as many as ten thousand, or as this process may open.
#[test]
fn ten_thousand_idle_connections() {
    let world = World::new();
    let address = |name: &str| -> std::net::SocketAddr {
        let text = std::fs::read_to_string(world.config(0)).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.trim_matches([' ', '=', '"']).parse().unwrap()
    };
    let (clients, peers) = (address("clients"), address("peers"));
    let server = world.servers[0].as_ref().unwrap().id();
    let before = held(server);
    let mut idle = vec![];
    for k in 0..10_000 {
        let to = if k % 10 == 0 { peers } else { clients };
        match std::net::TcpStream::connect_timeout(&to, Duration::from_secs(20)) {
            Ok(tcp) => idle.push(tcp),
            Err(e) => {
                println!("{} connections are all that this process may open: {e}", idle.len());
                break;
            }
        }
        if k % 2500 == 2499 {
            for job in world.submit(1) {
                world.assert_answered(&job);
            }
        }
    }
    assert!(idle.len() >= 500, "{}", idle.len());
    let during = held(server);
    assert!(during[1] < before[1] + 64 && during[2] < before[2] + 300, "{before:?} {during:?}");
    drop(idle);
    let until = Instant::now() + Duration::from_secs(60);
    while held(server)[0] > before[0] + 40 {
        assert!(Instant::now() < until, "{before:?} {:?}", held(server));
        std::thread::sleep(Duration::from_millis(100));
    }
    for job in world.submit(1) {
        world.assert_answered(&job);
    }
}

#[test]
fn what_a_command_did_can_be_read_by_a_program() {
    let world = World::new();
    let did = |args: &[&str]| -> Value {
        serde_json::from_str(&done(&world.alice(&[args, &["--json"]].concat()).output().unwrap())).unwrap()
    };
    let allowed = did(&["allow", "mnist", "bob", "--queries", "3"]);
    assert_eq!(
        (&allowed["done"], &allowed["client"], &allowed["grant"]["queries"]),
        (&"allowed".into(), &"bob".into(), &3.into())
    );
    assert_eq!(did(&["allow", "mnist", "bob", "--never"])["done"], "disallowed");
    let job = world.submit(1).remove(0);
    world.assert_answered(&job);
    assert_eq!(did(&["forget", &job])["job"], job.as_str());
    assert_eq!(did(&["remove", "mnist"]), serde_json::json!({"done": "removed", "model": "mnist"}));
}

/// Two clusters under one file: a model is pushed to both, jobs go to the shorter queue, and each is found where it is.
#[test]
fn replicas_share_the_work() {
    let (first, mut second) = (World::new(), World::new());
    let at = |world: &World| world.folder.path().join("alice/cluster.toml");
    let text = std::fs::read_to_string(at(&first)).unwrap();
    std::fs::write(at(&first), format!("replicas = [{:?}]\n{text}", at(&second))).unwrap();
    let pushed = first.alice(&["push", asset("mnist.onnx").to_str().unwrap(), "--name", "both"]).output().unwrap();
    assert!(done(&pushed).contains("pushed as both"));
    let digit = asset("digit-7.png");
    let submit = |times: usize| -> Vec<String> {
        let inputs = vec![digit.to_str().unwrap(); times];
        done(&first.alice(&[&["submit", "both", "--input"][..], &inputs].concat()).output().unwrap())
            .lines()
            .map(str::to_string)
            .collect()
    };
    let jobs = submit(12);
    jobs.iter().for_each(|job| first.assert_answered(job));
    // Both did their share, and both are listed under the one file.
    let there = second.jobs().iter().filter(|j| j["model"] == "both").count();
    assert!((3..=9).contains(&there), "{there}");
    assert_eq!(first.jobs().iter().filter(|j| j["model"] == "both").count(), 12);
    // What is done to a model is done at both.
    done(&first.alice(&["allow", "both", "bob"]).output().unwrap());
    let models: Vec<Value> =
        serde_json::from_str(&done(&second.alice(&["models", "--json"]).output().unwrap())).unwrap();
    assert!(models.iter().any(|m| m["name"] == "both" && m["grants"]["bob"].is_object()), "{models:?}");
    // One that is gone is passed over.
    (0..3).for_each(|party| second.kill(party));
    submit(3).iter().for_each(|job| first.assert_answered(job));
    // A replica with replicas of its own is refused, with its name.
    std::fs::write(at(&second), std::fs::read_to_string(at(&first)).unwrap()).unwrap();
    let refused = first.alice(&["jobs"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a replica names replicas"));
}

/// Files, threads and memory stay what they are over two thousand jobs.
#[test]
fn two_thousand_jobs_leave_nothing_behind() {
    let world = World::new();
    let digit = asset("digit-7.png");
    let inputs = vec![digit.to_str().unwrap(); 100];
    let mut early = vec![];
    let now = || -> Vec<[usize; 3]> { world.servers.iter().flatten().map(|s| held(s.id())).collect() };
    for round in 0..20 {
        let args = [&["submit", "mnist", "--wait", "--json", "--input"][..], &inputs].concat();
        let report: Value = serde_json::from_str(&done(&world.alice(&args).output().unwrap())).unwrap();
        let answers = report["answers"].as_array().unwrap();
        assert!(answers.len() == 100 && answers.iter().all(|a| a["top"][0]["class"] == 7));
        if round == 4 {
            early = now();
        }
    }
    let late = now();
    println!("files, threads and megabytes after 500 jobs {early:?}, after 2000 {late:?}");
    for (then, now) in early.iter().zip(&late) {
        let flat = now[0] <= then[0] + 8 && now[1] <= then[1] + 4 && now[2] <= then[2] + then[2] / 4 + 16;
        assert!(flat, "{early:?} {late:?}");
    }
}
