//! What owners of models and of data call: three servers as one.
//!
//! ```no_run
//! use sordino::exec::encode_inputs;
//! use sordino_service::client::Client;
//! use sordino_service::config::Cluster;
//! use std::time::Duration;
//!
//! # fn digit() -> Vec<sordino::Tensor> { vec![] }
//! let client = Client::new(&Cluster::read("cluster.toml".as_ref())?)?;
//! let model = client.model("mnist")?;
//! let inputs = encode_inputs(&model.public.program, &digit())?;
//! let job = client.submit(&model, &inputs, client.name())?;
//! client.wait(job, Duration::from_secs(60))?;
//! println!("{:?}", client.answer(job)?.scores());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::config::Cluster;
use crate::fault::{Blame, Fault, Result};
use crate::names::{CLIENT, Id};
use crate::push::{JobHead, ModelHead, Public, head};
use crate::records::{Grant, State};
use crate::shares::{Made, PARTIES, What, answer_bytes, open, share_bytes, share_inputs, share_weights};
use crate::talk::{Body, Reply, Talk};
use crate::wire::{About, Ask, JobView, MADE, ModelView, PROGRAM, VERSION};
use hyper::Method;
use hyper::body::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sordino::{Tensor, samples};
use sordino_nn::exec::decode_outputs;
use sordino_nn::program::Secrets;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Bytes of a piece of an upload.
const PIECE: usize = 1 << 16;
/// Slowest upload that is waited for, in bytes a second.
const SLOWEST: u64 = 16 << 10;
/// How long a server may lag behind another that has its share of an answer.
const LAG: Duration = Duration::from_secs(10);

/// A client of three servers.
pub struct Client {
    runtime: Runtime,
    servers: [Talk; PARTIES],
    name: String,
    /// How long an answer to a call is waited for.
    pub patience: Duration,
}

/// A model that a client may ask, as all three servers have it.
pub struct Known {
    /// As server 0 sees it, with the least that is left of the budget.
    pub view: ModelView,
    /// What is public of it.
    pub public: Public,
}

/// An answer.
pub struct Answered {
    /// The outputs, in the model's own layout.
    pub outputs: Vec<Tensor>,
    /// Their names.
    pub names: Vec<String>,
    /// Whether the one output is the number of the best class.
    pub class: bool,
    /// Names of the classes, if the model has any.
    pub classes: Option<Vec<String>>,
    batch: (Option<usize>, usize),
}

impl Answered {
    /// The first output's scores of the one sample.
    #[must_use]
    pub fn scores(&self) -> Vec<f32> {
        let (batch, rows) = self.batch;
        samples::rows(batch, &self.outputs[0], rows).into_iter().next().unwrap_or_default()
    }
}

/// The three servers' shares of one thing.
pub(crate) struct Fetched {
    pub(crate) made: Made,
    pub(crate) program: String,
    pub(crate) bytes: [Vec<u8>; PARTIES],
}

impl Fetched {
    /// From their answers, which must be of the same run.
    pub(crate) fn of(replies: [Result<Reply>; PARTIES]) -> Result<Self> {
        let (mut bytes, mut made, mut hashes) = (vec![], vec![], vec![]);
        for (party, reply) in replies.into_iter().enumerate() {
            let reply = reply?;
            let of = |name: &str| reply.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
            let at: Made = serde_json::from_str(of(MADE)).map_err(|e| {
                Fault::new(Blame::Incompatible, format!("server {party} does not say where the answer was made: {e}"))
            })?;
            made.push(at);
            hashes.push(of(PROGRAM).to_string());
            bytes.push(reply.body.to_vec());
        }
        let misbehaved = |why: &str| Fault::new(Blame::PeerMisbehaved, why);
        if made.iter().any(|m| *m != made[0]) {
            return Err(misbehaved("the servers' shares are of different runs"));
        }
        if hashes.iter().any(|h| *h != hashes[0]) {
            return Err(misbehaved("the servers do not agree which program answered"));
        }
        let program = hashes.swap_remove(0);
        let bytes = bytes.try_into().map_err(|_| Fault::usage("servers are three"))?;
        Ok(Self { made: made[0], program, bytes })
    }

    /// Refuses shares that are longer than they can be.
    pub(crate) fn at_most(&self, most: u64) -> Result<()> {
        match self.bytes.iter().position(|b| b.len() as u64 > most) {
            None => Ok(()),
            Some(party) => {
                let why = format!("server {party}'s share of what was opened is too long");
                Err(Fault::new(Blame::PeerMisbehaved, why))
            }
        }
    }
}

/// A change that some servers made, and not all.
fn half_done(e: Fault) -> Fault {
    Fault { why: format!("{}; the other servers did it, so do it again when this one can", e.why), ..e }
}

pub(crate) fn json<T: DeserializeOwned>(reply: &Reply) -> Result<T> {
    serde_json::from_slice(&reply.body)
        .map_err(|e| Fault::new(Blame::Incompatible, format!("its answer is not of version {VERSION}: {e}")))
}

fn body(value: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|e| Fault::internal("a call", &e))
}

/// Collects what is written to pieces, and hands them to an upload.
pub(crate) struct Pieces {
    held: Vec<u8>,
    out: mpsc::Sender<Bytes>,
    sent: Arc<AtomicU64>,
}

impl Pieces {
    fn hand_on(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.held, Vec::with_capacity(PIECE));
        self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        self.out.blocking_send(Bytes::from(piece)).map_err(|_| io::Error::other("the upload was broken off"))
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE - self.held.len());
        self.held.extend_from_slice(&bytes[..n]);
        if self.held.len() == PIECE {
            self.hand_on()?;
        }
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if !self.held.is_empty() {
            // A broken upload says so itself.
            let _ = self.hand_on();
        }
    }
}

impl Client {
    /// A client of a cluster.
    ///
    /// # Errors
    /// When its certificate cannot be used, or is none of a client.
    pub fn new(cluster: &Cluster) -> Result<Self> {
        let identity = cluster.tls.identity(&cluster.folder)?;
        let name = identity.names().iter().find_map(|n| n.strip_suffix(CLIENT)).map(str::to_string);
        let name = name.ok_or_else(|| {
            let (path, names) = (cluster.folder.join(&cluster.tls.certificate), identity.names().join(", "));
            Fault::usage(format!("{}: it is for {names:?}, and a client needs NAME{CLIENT}", path.display()))
        })?;
        let config = identity.dialler().map_err(|e| Fault::usage(format!("the certificate cannot be used: {e}")))?;
        let config = Arc::new(config);
        let talk = |party: usize| {
            let known = &cluster.servers[party];
            Talk::new(party, known.address.clone(), known.fingerprint.clone(), Arc::clone(&config))
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| Fault::internal("no thread can be started", &e))?;
        Ok(Self { runtime, servers: [talk(0), talk(1), talk(2)], name, patience: Duration::from_secs(30) })
    }

    /// Its name, as its certificate has it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One call to one server.
    pub(crate) fn call(
        &self,
        party: usize,
        method: Method,
        path: &str,
        body: Body,
        patience: Duration,
    ) -> Result<Reply> {
        self.runtime.block_on(self.servers[party].call(method, path, body, patience))
    }

    /// One call with any body: for tests of what servers refuse.
    ///
    /// # Errors
    /// Those of the call.
    #[doc(hidden)]
    pub fn raw(&self, party: usize, method: &str, path: &str, body: Vec<u8>) -> Result<Vec<u8>> {
        let method = method.parse().map_err(|_| Fault::usage("no method"))?;
        self.call(party, method, path, Body::Whole(Bytes::from(body)), self.patience).map(|r| r.body.to_vec())
    }

    /// The same call to all three at the same time.
    pub(crate) fn everywhere(
        &self,
        method: &Method,
        path: &str,
        bodies: [Body; PARTIES],
        patience: Duration,
    ) -> [Result<Reply>; PARTIES] {
        let [a, b, c] = bodies;
        let call = |party: usize, body| self.servers[party].call(method.clone(), path, body, patience);
        self.runtime.block_on(async {
            let (a, b, c) = tokio::join!(call(0, a), call(1, b), call(2, c));
            [a, b, c]
        })
    }

    pub(crate) fn all(&self, method: &Method, path: &str, body: Option<Bytes>) -> Result<[Reply; PARTIES]> {
        let body = || body.clone().map_or(Body::Empty, Body::Whole);
        let replies = self.everywhere(method, path, [body(), body(), body()], self.patience);
        let partly = *method != Method::GET && replies.iter().any(Result::is_ok);
        let [a, b, c] = replies.map(|r| r.map_err(|e| if partly { half_done(e) } else { e }));
        Ok([a?, b?, c?])
    }

    /// Who answers at the three addresses; each must be who it is taken for.
    ///
    /// # Errors
    /// When one of them does not, or speaks another version.
    pub fn about(&self) -> Result<[About; PARTIES]> {
        let replies = self.all(&Method::GET, "/v1/about", None)?;
        let mut all = vec![];
        for (party, reply) in replies.iter().enumerate() {
            let about: About = json(reply)?;
            if about.version != VERSION || about.party != party {
                let why = format!("server {party} speaks version {} and is party {}", about.version, about.party);
                return Err(Fault::new(Blame::Incompatible, why));
            }
            all.push(about);
        }
        all.try_into().map_err(|_| Fault::usage("servers are three"))
    }

    /// Models that this client may ask.
    ///
    /// # Errors
    /// Those of the call.
    pub fn models(&self) -> Result<Vec<ModelView>> {
        json(&self.call(0, Method::GET, "/v1/models", Body::Empty, self.patience)?)
    }

    /// A model that this client may ask, or gives rows to. All three servers must have the same.
    ///
    /// # Errors
    /// When they do not; those of the calls.
    pub fn model(&self, name: &str) -> Result<Known> {
        crate::names::model(name)?;
        let replies = self.all(&Method::GET, &format!("/v1/models/{name}"), None)?;
        let views: Result<Vec<ModelView>> = replies.iter().map(json).collect();
        let views = views?;
        if let Some(other) = views.iter().position(|v| (v.upload, &v.program) != (views[0].upload, &views[0].program)) {
            let why =
                format!("servers 0 and {other} have different models named {name}; its owner may be pushing it now");
            return Err(Fault::new(Blame::Incompatible, why));
        }
        let public = self.public_at(&format!("/v1/models/{name}/public"), &views[0].program)?;
        let left = views.iter().filter_map(|v| v.left).min();
        let view = views.into_iter().next().ok_or_else(|| Fault::usage("servers are three"))?;
        Ok(Known { view: ModelView { left, ..view }, public })
    }

    /// What is public of a model, as server 0 tells it and all three vouch for.
    fn public_at(&self, path: &str, hash: &str) -> Result<Public> {
        let public = Public::parse(&self.call(0, Method::GET, path, Body::Empty, self.patience)?.body)?;
        if public.hash() == hash {
            return Ok(public);
        }
        Err(Fault::new(Blame::PeerMisbehaved, "server 0 tells of another program than all three vouch for"))
    }

    /// Whether the servers would take a program of that name.
    ///
    /// # Errors
    /// Why not.
    pub fn may_push(&self, name: &str, public: &Public) -> Result<()> {
        public.check()?;
        crate::names::model(name)?;
        let memory = public.memory()?;
        let mut bodies = vec![];
        for party in 0..PARTIES {
            let bytes = share_bytes(public.shared(), What::Model, party);
            bodies.push(Body::Whole(body(&Ask { bytes, memory })?));
        }
        let bodies = bodies.try_into().map_err(|_| Fault::usage("servers are three"))?;
        let replies = self.everywhere(&Method::POST, &format!("/v1/models/{name}/ask"), bodies, self.patience);
        replies.into_iter().try_for_each(|r| r.map(drop))
    }

    /// Shares a model with the three servers; who may ask it stays as it was, where nothing is said. `sent` counts bytes.
    ///
    /// # Errors
    /// When one of them refuses or is lost; then none of them keeps it.
    pub fn push(
        &self,
        name: &str,
        public: Public,
        weights: &Secrets,
        grants: Option<BTreeMap<String, Grant>>,
        sent: &Arc<AtomicU64>,
    ) -> Result<Id> {
        self.may_push(name, &public)?;
        let upload = Id::fresh()?;
        let model = ModelHead { upload, grants, public };
        let path = format!("/v1/models/{name}");
        let shared = model.public.shared();
        let each = |party| share_bytes(shared, What::Model, party);
        let made =
            self.upload(&Method::PUT, &path, &head(&model)?, each, sent, |out| share_weights(shared, weights, out));
        if made.is_err() {
            // Whoever has it lets it go again.
            for party in 0..PARTIES {
                let at = self.call(party, Method::GET, &path, Body::Empty, self.patience);
                if at.and_then(|r| json::<ModelView>(&r)).is_ok_and(|v| v.upload == upload) {
                    let _ = self.call(party, Method::DELETE, &path, Body::Empty, self.patience);
                }
            }
        }
        made.map(|()| upload)
    }

    /// Uploads a head and a share set to every server, while the share sets are made.
    pub(crate) fn upload(
        &self,
        method: &Method,
        path: &str,
        head: &[u8],
        bytes: impl Fn(usize) -> u64,
        sent: &Arc<AtomicU64>,
        make: impl FnOnce([Pieces; PARTIES]) -> Result<()> + Send,
    ) -> Result<()> {
        let (mut bodies, mut outs, mut most) = (vec![], vec![], 0);
        for party in 0..PARTIES {
            let (out, pieces) = mpsc::channel(8);
            let length = head.len() as u64 + bytes(party);
            most = most.max(length);
            bodies.push(Body::Stream { first: Some(Bytes::copy_from_slice(head)), pieces, length });
            outs.push(Pieces { held: Vec::with_capacity(PIECE), out, sent: Arc::clone(sent) });
        }
        let three = || Fault::usage("servers are three");
        let (Ok(bodies), Ok(outs)) = (<[Body; PARTIES]>::try_from(bodies), <[Pieces; PARTIES]>::try_from(outs)) else {
            return Err(three());
        };
        let patience = self.patience + Duration::from_secs(most / SLOWEST);
        std::thread::scope(|scope| {
            let made = std::thread::Builder::new().name("shares".into()).spawn_scoped(scope, || make(outs));
            let made = made.map_err(|e| Fault::internal("no thread can be started", &e))?;
            let replies = self.everywhere(method, path, bodies, patience);
            let made = made.join().unwrap_or_else(|_| Err(Fault::internal("shares", &"their thread stopped")));
            // What a server says is why the making of shares was broken off, unless they cannot be made.
            match made {
                Err(e) if e.kind == Blame::Usage => Err(e),
                _ => replies.into_iter().try_for_each(|r| r.map(drop)),
            }
        })
    }

    /// Lets a client ask a model that belongs to this one.
    ///
    /// # Errors
    /// Those of the calls.
    pub fn allow(&self, name: &str, client: &str, grant: &Grant) -> Result<()> {
        crate::names::model(name)?;
        crate::names::client(client)?;
        self.all(&Method::PUT, &format!("/v1/models/{name}/grants/{client}"), Some(body(grant)?)).map(drop)
    }

    /// Ends what [`Client::allow`] began.
    ///
    /// # Errors
    /// Those of the calls.
    pub fn disallow(&self, name: &str, client: &str) -> Result<()> {
        crate::names::model(name)?;
        crate::names::client(client)?;
        self.all(&Method::DELETE, &format!("/v1/models/{name}/grants/{client}"), None).map(drop)
    }

    /// Removes a model that belongs to this client, wherever it is.
    ///
    /// # Errors
    /// Those of the calls.
    pub fn remove(&self, name: &str) -> Result<()> {
        crate::names::model(name)?;
        let path = format!("/v1/models/{name}");
        self.gone_everywhere(&path)
    }

    /// Forgets a job.
    ///
    /// # Errors
    /// Those of the calls.
    pub fn forget(&self, job: Id) -> Result<()> {
        self.gone_everywhere(&format!("/v1/jobs/{job}"))
    }

    /// A server that has it no more is no obstacle, unless none has it.
    fn gone_everywhere(&self, path: &str) -> Result<()> {
        let empty = || Body::Empty;
        let replies = self.everywhere(&Method::DELETE, path, [empty(), empty(), empty()], self.patience);
        if replies.iter().all(|r| r.as_ref().is_err_and(|e| e.kind == Blame::Unknown)) {
            return replies.into_iter().try_for_each(|r| r.map(drop));
        }
        replies
            .into_iter()
            .filter(|r| !r.as_ref().is_err_and(|e| e.kind == Blame::Unknown))
            .try_for_each(|r| r.map(drop))
    }

    /// Asks a model, with encoded inputs. The answer is for `receiver`.
    ///
    /// # Errors
    /// When a server refuses or is lost: then nothing is asked.
    pub fn submit(&self, model: &Known, inputs: &[Vec<i64>], receiver: &str) -> Result<Id> {
        let id = Id::fresh()?;
        let job = JobHead { id, model: model.view.name.clone(), upload: model.view.upload, receiver: receiver.into() };
        let program = &model.public.program;
        let each = |party| share_bytes(program, What::Inputs, party);
        let made = self.upload(&Method::POST, "/v1/jobs", &head(&job)?, each, &Arc::default(), |out| {
            share_inputs(program, 0, 1, |_| Ok(inputs.to_vec()), out)
        });
        if made.is_err() {
            // Nobody keeps half of it.
            let empty = || Body::Empty;
            let _ =
                self.everywhere(&Method::DELETE, &format!("/v1/jobs/{id}"), [empty(), empty(), empty()], self.patience);
        }
        made.map(|()| id)
    }

    /// Where a job is.
    ///
    /// # Errors
    /// Those of the call.
    pub fn job(&self, id: Id) -> Result<JobView> {
        json(&self.call(0, Method::GET, &format!("/v1/jobs/{id}"), Body::Empty, self.patience)?)
    }

    /// Jobs that this client submitted or receives.
    ///
    /// # Errors
    /// Those of the call.
    pub fn jobs(&self) -> Result<Vec<JobView>> {
        json(&self.call(0, Method::GET, "/v1/jobs", Body::Empty, self.patience)?)
    }

    /// Waits until a job is over, for so long; says where it is then.
    ///
    /// # Errors
    /// Those of the calls; not the job's own.
    pub fn wait(&self, id: Id, patience: Duration) -> Result<JobView> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let wait = left.as_secs().clamp(1, 20);
            let path = format!("/v1/jobs/{id}?wait={wait}");
            let view: JobView =
                json(&self.call(0, Method::GET, &path, Body::Empty, self.patience + Duration::from_secs(wait))?)?;
            if matches!(view.state, State::Done | State::Failed(_)) || left <= Duration::from_secs(wait) {
                return Ok(view);
            }
        }
    }

    /// Fetches the three shares of an answer and adds them.
    ///
    /// # Errors
    /// When the job is not answered, or shares do not fit together.
    pub fn answer(&self, id: Id) -> Result<Answered> {
        self.answer_with(id, None)
    }

    /// The same for an answer of a model that is known already.
    ///
    /// # Errors
    /// As [`Client::answer`].
    pub fn answer_of(&self, id: Id, model: &Known) -> Result<Vec<Tensor>> {
        Ok(self.answer_with(id, Some((&model.public, &model.view.program)))?.outputs)
    }

    fn answer_with(&self, id: Id, known: Option<(&Public, &str)>) -> Result<Answered> {
        let until = Instant::now() + LAG;
        let replies = loop {
            let empty = || Body::Empty;
            let path = format!("/v1/jobs/{id}/answer");
            let replies = self.everywhere(&Method::GET, &path, [empty(), empty(), empty()], self.patience);
            let conflicts = |r: &Result<Reply>| r.as_ref().is_err_and(|e| e.kind == Blame::Conflict);
            // The leader has it when all have it; the others may be told a moment later.
            if conflicts(&replies[0]) || !replies.iter().any(conflicts) || Instant::now() >= until {
                break replies;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let fetched = Fetched::of(replies)?;
        let asked;
        let public = match known {
            Some((public, hash)) if hash == fetched.program => public,
            _ => {
                asked = self.public_at(&format!("/v1/jobs/{id}/public"), &fetched.program)?;
                &asked
            }
        };
        fetched.at_most(answer_bytes(&public.program))?;
        let opened = open(public, fetched.made, fetched.bytes)?;
        let (class, classes) = (public.class, public.preprocess.classes.clone());
        let rows = samples::batch(&public.program);
        let first = public.program.outputs.first().and_then(|p| p.batch);
        let names = public.program.outputs.iter().map(|p| p.name.clone()).collect();
        Ok(Answered { outputs: decode_outputs(&public.program, &opened), names, class, classes, batch: (first, rows) })
    }
}
