//! A store whose process is killed at any moment: whatever was promised is there, and everything that is there is whole.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_service::briefs::Room;
use sordino_service::names::Id;
use sordino_service::records::{Answer, Grant, Job, Model, State};
use sordino_service::shares::Made;
use sordino_service::store::Store;
use sordino_service::{Blame, Fault};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn file(store: &Store, bytes: &[u8]) -> Result<Id, Fault> {
    let mut file = store.create()?;
    file.write_all(bytes).unwrap();
    file.finish()
}

const ROOM: Room = Room { waiting: 100_000, own: 100_000, over: 100_000 };

fn model(files: Id) -> Model {
    Model {
        name: "m".into(),
        owner: "alice".into(),
        upload: Id([1; 16]),
        program: String::new(),
        public: files,
        shares: files,
        components: [String::new(), String::new()],
        grants: BTreeMap::new(),
        bytes: 0,
        memory: 0,
        created: 0,
        training: None,
    }
}

fn job(store: &Store, id: Id) -> Result<Job, Fault> {
    Ok(Job {
        id,
        model: "m".into(),
        upload: Id([1; 16]),
        owner: "alice".into(),
        receiver: "alice".into(),
        program: String::new(),
        public: Id([4; 16]),
        state: State::Queued,
        shares: Some(file(store, &[7; 100_000])?),
        components: [String::new(), String::new()],
        session: None,
        answer: None,
        created: 0,
        sequence: 0,
        attempts: 0,
        charged: false,
        note: None,
    })
}

/// The life of a job, again and again; says each time that something was promised.
fn live(folder: &Path) {
    let store = Store::open(folder).unwrap();
    let say = |what: &str| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{what}").unwrap();
        out.flush().unwrap();
    };
    // The program that all of them name; after the first start it is there.
    let program = match store.models().unwrap().first() {
        Some(model) => model.public,
        None => {
            let program = file(&store, b"a program").unwrap();
            store.put_model(&mut model(program), 9, false).unwrap();
            program
        }
    };
    for _ in 0..10_000 {
        let id = Id::fresh().unwrap();
        let added = store.add_job(Job { public: program, ..job(&store, id).unwrap() }, ROOM).unwrap();
        say(&format!("added {id}"));
        let grant = Grant { queries: Some(u64::MAX), ..Grant::default() };
        let begun = store.begin(Id([2; 16]), &[&added], 5, |_| Ok(grant.clone())).unwrap().pop().unwrap().unwrap();
        // Neither twice, nor as something else.
        for other in [&begun, &Job { sequence: 0, ..added.clone() }] {
            assert!(store.begin(Id([2; 16]), &[other], 5, |_| Ok(grant.clone())).unwrap()[0].is_err());
        }
        let made = Made { session: Id([2; 16]), run: 1, row: None };
        store.keep(&[(id, Answer { shares: file(&store, &[9; 3000]).unwrap(), made })]).unwrap();
        let mut inputs = None;
        store
            .change_job(id, |job| {
                job.state = State::Done;
                inputs = job.shares.take();
                Ok(())
            })
            .unwrap();
        store.discard(inputs);
        say(&format!("done {id}"));
    }
}

#[test]
fn killed_at_every_write() {
    const CHILD: &str = "SORDINO_STORE_TEST";
    if let Some(folder) = std::env::var_os(CHILD) {
        return live(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut promised: BTreeMap<String, bool> = BTreeMap::new();
    for round in 0..40u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["killed_at_every_write", "--exact", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let reading = std::thread::spawn(move || out.lines().map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_micros(60_000 + round * 1_777));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reading.join().unwrap() {
            match line.split_once(' ') {
                Some(("added", id)) => drop(promised.insert(id.into(), false)),
                Some(("done", id)) => drop(promised.insert(id.into(), true)),
                _ => {}
            }
        }
        let store = Store::open(&path).unwrap();
        let checked = store.check().unwrap();
        assert!(checked.faults.is_empty(), "{:?}", checked.faults);
        for (id, done) in &promised {
            let job = store.job(id.parse().unwrap()).unwrap().unwrap();
            assert!(!done || job.state == State::Done, "{job:?}");
        }
        // One charge a job that was begun, and none for others.
        let begun = store.jobs().unwrap().iter().filter(|j| j.charged).count();
        let grant = Grant { queries: Some(u64::MAX), ..Grant::default() };
        assert_eq!(store.charged("m", "alice", &grant, 9).unwrap(), begun as u64);
    }
    assert!(promised.len() > 40, "{} jobs", promised.len());
}

#[test]
fn stores_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = Store::open(&path).unwrap();
    let twice = Store::open(&path).err().unwrap();
    assert!(twice.kind == Blame::Usage && twice.why.contains("another process"), "{twice}");
    let id = file(&store, b"shares").unwrap();
    let mut model = model(id);
    store.put_model(&mut model, 9, false).unwrap();
    let new = Job { shares: Some(id), public: id, ..job(&store, Id([3; 16])).unwrap() };
    store.add_job(new.clone(), ROOM).unwrap();
    assert_eq!(store.add_job(new.clone(), ROOM).unwrap_err().kind, Blame::Conflict);
    let other = Job { id: Id([5; 16]), upload: Id([9; 16]), ..new };
    assert_eq!(store.add_job(other, ROOM).unwrap_err().kind, Blame::Conflict);
    // A copy is a store of its own.
    let copy = folder.path().join("copy");
    store.backup(&copy).unwrap();
    let copied = Store::open(&copy).unwrap();
    assert!(copied.check().unwrap().faults.is_empty());
    assert_eq!(*copied.whole(id).unwrap(), b"shares");
    assert!(Store::open(&path).unwrap().backup(&copy).unwrap_err().why.contains("already"));
    drop(copied);
    // Another key opens nothing, and without one nothing is made up.
    std::fs::copy(path.join("records.redb"), folder.path().join("records")).unwrap();
    std::fs::remove_file(copy.join("store.key")).unwrap();
    assert!(Store::open(&copy).err().unwrap().why.contains("key is missing"));
    sordino::model::write_own(&copy.join("store.key"), &[5; 32]).unwrap();
    assert!(Store::open(&copy).err().unwrap().why.contains("not the key of this store"));
    sordino::model::write_own(&copy.join("store.key"), &[5; 31]).unwrap();
    assert!(Store::open(&copy).err().unwrap().why.contains("32 bytes"));
    // A later version's.
    let later = redb::Database::open(path.join("records.redb")).unwrap();
    let txn = later.begin_write().unwrap();
    txn.open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap().insert("schema", 99).unwrap();
    txn.commit().unwrap();
    drop(later);
    assert!(Store::open(&path).err().unwrap().why.contains("version 99"));
}

#[test]
fn a_key_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let (path, key) = (folder.path().join("store"), folder.path().join("a key"));
    let store = Store::open_with(&path, &key).unwrap();
    let id = file(&store, b"shares").unwrap();
    store.add_job(Job { shares: Some(id), public: id, ..job(&store, Id([3; 16])).unwrap() }, ROOM).unwrap_err();
    store.put_model(&mut model(id), 9, false).unwrap();
    let copy = folder.path().join("copy");
    store.backup(&copy).unwrap();
    assert!(key.exists() && !path.join("store.key").exists() && !copy.join("store.key").exists());
    assert!(Store::open(&copy).err().unwrap().why.contains("key is missing"));
    assert_eq!(*Store::open_with(&copy, &key).unwrap().whole(id).unwrap(), b"shares");
}

#[test]
fn a_disk_that_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = Store::open(&path).unwrap();
    let large = vec![7; 300_000];
    let id = file(&store, &large).unwrap();
    std::fs::rename(path.join("shares"), path.join("moved")).unwrap();
    assert!(store.create().unwrap().write_all(&large).is_err());
    std::fs::rename(path.join("moved"), path.join("shares")).unwrap();
    assert_eq!(*store.whole(id).unwrap(), large);
}

/// Unmounts with its test.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(folder.path()).output();
    if !mount.is_ok_and(|m| m.status.success()) {
        eprintln!("no file system of four megabytes can be mounted here: skipped");
        return;
    }
    let mounted = Mounted(folder.path().into());
    let path = mounted.0.join("store");
    let store = Store::open(&path).unwrap();
    let program = file(&store, b"a program").unwrap();
    store.put_model(&mut model(program), 9, false).unwrap();
    let mut kept = vec![];
    let refused = (0..1000)
        .find_map(|_| {
            let id = Id::fresh().unwrap();
            let new = || -> Result<(), Fault> {
                let mut large = store.create()?;
                let written = large.write_all(&[7; 150_000]);
                written.map_err(|e| Fault::new(Blame::Internal, format!("{e}")))?;
                let shares = large.finish()?;
                let job = Job { shares: Some(shares), public: program, ..job(&store, id)? };
                store.add_job(job, ROOM).map(drop)
            };
            match new() {
                Ok(()) => {
                    kept.push(id);
                    None
                }
                Err(e) => Some(e),
            }
        })
        .unwrap();
    assert_eq!(refused.kind, Blame::Internal, "{refused}");
    assert!(!kept.is_empty());
    drop(store);
    // What was promised is there, and whole; and there is room again for less.
    let store = Store::open(&path).unwrap();
    assert!(store.check().unwrap().faults.is_empty());
    assert!(kept.iter().all(|id| store.job(*id).unwrap().is_some()));
    for id in &kept[..kept.len() / 2] {
        let job = store.remove_job(*id, |_| Ok(())).unwrap();
        store.discard(job.shares);
    }
    store.is_writable().unwrap();
    file(&store, &[1; 150_000]).unwrap();
}
