//! The operator's page, as a browser sees it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{World, asked, inputs_for, share_inputs};
use sordino_service::config::Files;
use sordino_service::names::Id;
use sordino_service::push::{JobHead, head};
use sordino_service::records::Grant;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

/// What a server answers an operator.
fn page(world: &World, party: usize) -> String {
    let files = Files { certificate: "ops.pem".into(), key: "ops.key".into(), authorities: "ca.pem".into() };
    let config = files.identity(&world.demo.folder().join("ops")).unwrap().dialler().unwrap();
    let name = format!("server-{party}.sordino").try_into().unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let tcp = TcpStream::connect(world.demo.servers[party].as_ref().unwrap().clients).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, tcp);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = vec![];
    // A server that closes after its answer may do so without a word of TLS.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (status, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(status.starts_with("HTTP/1.1 200") && status.contains("default-src 'none'"), "{status}");
    body.into()
}

#[test]
fn a_browser_shows_what_there_is() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", BTreeMap::from([("bob".into(), Grant { queries: Some(5), ..Grant::default() })]));
    assert_eq!(asked(&alice, "mnist"), 7);
    assert_eq!(asked(&world.client("bob"), "mnist"), 7);
    // One that waits for its other halves.
    let model = alice.model("mnist").unwrap();
    let job =
        JobHead { id: Id([0xab; 16]), model: "mnist".into(), upload: model.view.upload, receiver: "alice".into() };
    let mut set = vec![];
    let sets = [0, 1, 2].map(|_| std::io::Cursor::new(vec![]));
    share_inputs(&model.public.program, &inputs_for(&model), sets);
    set.resize(32, 1);
    alice.raw(0, "POST", "/v1/jobs", [head(&job).unwrap(), set].concat()).unwrap();
    let html = page(&world, 0);
    let said = ["sordino server 0", "leads", "mnist", "alice", "bob: 1, 4", "answered", "waits", &"ab".repeat(16)];
    assert!(said.iter().all(|s| html.contains(s)), "{html}");
    assert!(page(&world, 1).contains("follows server 0"));
    assert!(!html.contains("<script") && !html.contains("http://") && !html.contains("https://"));
    let browser = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|b| Command::new(b).arg("--version").output().is_ok_and(|o| o.status.success()));
    let Some(browser) = browser else {
        eprintln!("no Chromium here: the page is not looked at");
        return;
    };
    let file = world.folder.path().join("page.html");
    std::fs::write(&file, &html).unwrap();
    let arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"];
    let seen = Command::new(browser).args(arguments).arg(format!("file://{}", file.display())).output().unwrap();
    let dom = String::from_utf8_lossy(&seen.stdout);
    // Every row is one, and nothing was dropped or moved by a mistake in the markup.
    assert_eq!(dom.matches("<tr>").count(), html.matches("<tr>").count(), "{dom}");
    assert!(said.iter().all(|s| dom.contains(s)), "{dom}");
    assert_eq!(dom.matches("class=\"tile\"").count(), 5);
}
