//! What is in `deploy` fits what is built: configurations are read, metrics exist, commands are the program's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{World, asked};
use sordino_service::config::{Server, parse};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).unwrap()
}

#[test]
fn configurations_are_read() {
    for party in 0..3 {
        let config: Server = parse(&text(&format!("kubernetes/party-{party}/server.toml"))).unwrap();
        config.check().unwrap();
        assert_eq!(config.party, party);
        assert_eq!(config.tls.key, PathBuf::from(format!("server-{party}.key")));
    }
}

#[test]
fn metrics_of_the_dashboard_exist() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", BTreeMap::new());
    assert_eq!(asked(&alice, "mnist"), 7);
    let engine = world.demo.servers[0].as_ref().unwrap().engine();
    let told = engine.metrics.text(&engine.gauges().unwrap());
    let dashboard = text("grafana.json");
    let mut names = vec![];
    for (at, _) in dashboard.match_indices("sordino_") {
        let rest = &dashboard[at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap();
        names.push(rest[..end].to_string());
    }
    assert!(names.len() > 10);
    // Layers add up to the run, but for what opens the answer.
    let sum = |of: &str| -> f64 {
        let lines = told.lines().filter(|l| l.starts_with(of));
        lines.map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let (layers, run) = (sum("sordino_layer_bytes_total{"), sum("sordino_run_bytes_total{"));
    assert!(layers > 0.9 * run && layers <= run, "{layers} of {run}");
    assert!(sum("sordino_layer_rounds_total{model=\"mnist\",kind=\"Conv\"}") >= 1.0, "{told}");
    for name in names {
        let family = name.trim_end_matches("_bucket");
        assert!(told.contains(&format!("# TYPE {family} ")), "{name}");
    }
    // Every family has its type once, and every line belongs to one.
    for line in told.lines().filter(|l| !l.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().fold(name, |n, end| n.strip_suffix(end).unwrap_or(n));
        assert_eq!(told.matches(&format!("# TYPE {family} ")).count(), 1, "{line}");
        assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
    }
}

#[test]
fn units_name_what_is_there() {
    let unit = text("sordino.service");
    assert!(unit.contains("sordino --log info --log-format json serve --config /etc/sordino/server.toml"));
    let container = text("Containerfile");
    assert!(container.contains(r#""serve", "--config", "/etc/sordino/server.toml""#));
    let toolchain =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rust-toolchain.toml")).unwrap();
    let version = toolchain.split('"').nth(1).unwrap();
    assert!(container.contains(&format!("rust:{version}")), "{version}");
}
