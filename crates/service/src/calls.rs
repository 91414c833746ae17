//! What a server answers to each call: see [`crate::wire`].

use crate::briefs::Phase;
use crate::edge::{Caller, Pieces};
use crate::engine::Engine;
use crate::fault::{Blame, Fault, Result};
use crate::names::{self, Id};
use crate::records::{Grant, State};
use crate::shares::Made;
use crate::trainings::Training;
use crate::wire::{About, Ask, JobView, MADE, ModelView, PROGRAM, VERSION, other_version};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Jobs of a list, the latest ones.
const MOST_LISTED: usize = 10_000;
/// Longest that a call waits for a job to change.
const MOST_WAIT: Duration = Duration::from_secs(60);

/// A call.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) caller: Caller,
}

impl Call {
    /// Whether its body is an upload, which may be long.
    pub(crate) fn is_upload(&self) -> bool {
        let path: Vec<&str> = self.path.split('/').skip(1).collect();
        let client = matches!(self.caller, Caller::Client(_));
        client
            && matches!(
                (self.method.as_str(), &path[..]),
                ("PUT", ["v1", "models", _] | ["v1", "models", _, "rows"]) | ("POST", ["v1", "jobs"])
            )
    }
}

/// An answer before it is one of HTTP.
pub(crate) enum Said {
    Json(Vec<u8>),
    Text(&'static str, String),
    Answer { bytes: Vec<u8>, made: Made, program: String },
    Nothing,
}

fn json(value: &impl Serialize) -> Result<Said> {
    serde_json::to_vec(value).map(Said::Json).map_err(|e| Fault::internal("an answer", &e))
}

fn read_json<T: DeserializeOwned>(mut body: Pieces) -> Result<T> {
    let mut bytes = vec![];
    body.read_to_end(&mut bytes).map_err(|e| Fault::usage(format!("the call broke off: {e}")))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Fault::new(Blame::Incompatible, format!("it is not of this version: {e}")))
}

/// Answers a call. `turn` is held until the work is done, also if whoever called is gone before.
pub(crate) async fn answer(
    engine: Arc<Engine>,
    call: Call,
    body: Pieces,
    turn: impl Send + 'static,
) -> Response<Full<Bytes>> {
    let (began, called) = (Instant::now(), format!("{} {}", call.method, call.path));
    let waited = wait(&engine, &call).await;
    let (inner, caller) = (Arc::clone(&engine), call.caller.clone());
    let said = match waited {
        Err(e) => Err(e),
        // The store blocks, and so does whoever reads a body.
        Ok(()) => {
            let answered = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                match &call.caller {
                    Caller::Client(name) => client(&inner, &call, name, body),
                    Caller::Operator(_) => operator(&inner, &call),
                    Caller::Nobody(why) => Err(Fault::refused(why.clone())),
                }
            });
            answered.await.unwrap_or_else(|_| Err(Fault::internal("the call", &"it stopped unexpectedly")))
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    match &said {
        Ok(_) => tracing::debug!(?caller, call = %called, seconds, "answered"),
        Err(e) => {
            engine.metrics.refused(e.kind);
            // Looking for what is not there is no trouble.
            match e.kind {
                Blame::Unknown | Blame::Conflict | Blame::Usage => {
                    tracing::debug!(?caller, call = %called, blame = e.kind.name(), "refused: {e}");
                }
                _ => tracing::warn!(?caller, call = %called, blame = e.kind.name(), "refused: {e}"),
            }
        }
    }
    response(said)
}

/// A refusal.
pub(crate) fn refusal(fault: Fault) -> Response<Full<Bytes>> {
    response(Err(fault))
}

fn response(said: Result<Said>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let kind = |response: &mut Response<Full<Bytes>>, kind| {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match said {
        Ok(Said::Nothing) => *response.status_mut() = StatusCode::NO_CONTENT,
        Ok(Said::Json(bytes)) => {
            kind(&mut response, "application/json");
            *response.body_mut() = Full::from(bytes);
        }
        Ok(Said::Text(what, text)) => {
            kind(&mut response, what);
            // The status page has no scripts, and loads nothing.
            let policy =
                HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");
            response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
            *response.body_mut() = Full::from(text);
        }
        Ok(Said::Answer { bytes, made, program }) => {
            kind(&mut response, "application/octet-stream");
            let text = |v: String| HeaderValue::from_str(&v).unwrap_or_else(|_| HeaderValue::from_static(""));
            response.headers_mut().insert(MADE, text(serde_json::to_string(&made).unwrap_or_default()));
            response.headers_mut().insert(PROGRAM, text(program));
            *response.body_mut() = Full::from(bytes);
        }
        Err(fault) => {
            *response.status_mut() =
                StatusCode::from_u16(fault.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            kind(&mut response, "application/json");
            *response.body_mut() = Full::from(serde_json::to_vec(&fault).unwrap_or_default());
        }
    }
    response
}

/// A job that a call waits for, if it does, until it is over.
async fn wait(engine: &Arc<Engine>, call: &Call) -> Result<()> {
    let Caller::Client(client) = &call.caller else { return Ok(()) };
    let path: Vec<&str> = call.path.split('/').skip(1).collect();
    let (["v1", "jobs", id], Some(seconds)) = (&path[..], call.query.strip_prefix("wait=")) else { return Ok(()) };
    let seconds: u64 = seconds.parse().map_err(|_| Fault::usage(format!("wait={seconds}: not a number of seconds")))?;
    let until = tokio::time::Instant::now() + Duration::from_secs(seconds).min(MOST_WAIT);
    let id: Id = id.parse()?;
    let mut changes = engine.changes(id);
    loop {
        changes.mark_unchanged();
        let (engine, client) = (Arc::clone(engine), client.clone());
        let job = tokio::task::spawn_blocking(move || engine.job_for(id, &client)).await;
        if job.map_err(|e| Fault::internal("the call", &e))??.is_over() {
            return Ok(());
        }
        if tokio::time::timeout_at(until, changes.changed()).await.is_err() {
            return Ok(());
        }
    }
}

fn client(engine: &Engine, call: &Call, client: &str, body: Pieces) -> Result<Said> {
    let path: Vec<&str> = call.path.split('/').skip(1).collect();
    let view = |model| ModelView::new(engine, model, client).and_then(|v| json(&v));
    match (call.method.as_str(), &path[..]) {
        ("GET", ["v1", "about"]) => {
            let waiting =
                engine.store.briefs().values().filter(|b| matches!(b.phase, Phase::Queued | Phase::Running)).count();
            let program = env!("CARGO_PKG_VERSION").into();
            json(&About { version: VERSION, program, party: engine.config.party, waiting })
        }
        ("GET", ["v1", "models"]) => {
            let models = engine.store.models()?;
            let seen = models.into_iter().filter(|m| m.is_known_to(client));
            let seen: Result<Vec<ModelView>> = seen.map(|m| ModelView::new(engine, m, client)).collect();
            json(&seen?)
        }
        ("GET", ["v1", "models", name]) => view(engine.known_model(name, client)?),
        ("GET", ["v1", "models", name, "public"]) => {
            let model = engine.known_model(name, client)?;
            json(&*engine.public(model.public, &model.program)?)
        }
        ("POST", ["v1", "models", name, "ask"]) => {
            names::model(name)?;
            let Ask { bytes, memory } = read_json(body)?;
            engine.may_push(name, client, bytes, memory).map(|()| Said::Nothing)
        }
        ("PUT", ["v1", "models", name]) => view(engine.take_model(name, client, body)?),
        ("DELETE", ["v1", "models", name]) => engine.remove_model(name, client).map(|()| Said::Nothing),
        ("PUT", ["v1", "models", name, "rows"]) => view(engine.take_rows(name, client, body)?),
        ("DELETE", ["v1", "models", name, "rows"]) => engine.withdraw_rows(name, client).map(|()| Said::Nothing),
        ("POST", ["v1", "models", name, "again"]) => view(engine.try_training_again(name, client)?),
        ("GET", ["v1", "models", name, "losses", stretch]) => {
            let losses = |t: &Training| t.losses.get(stretch.parse::<usize>().ok()?).map(|l| (l.shares, l.made));
            opened(engine, name, client, losses)
        }
        ("GET", ["v1", "models", name, "opened"]) => {
            opened(engine, name, client, |t| t.opened.zip(t.became()).map(|(id, c)| (id, c.made)))
        }
        ("PUT", ["v1", "models", name, "grants", grantee]) => {
            let grant: Grant = read_json(body)?;
            names::client(grantee)?;
            grant.check()?;
            view(engine.store.change_grants(name, client, |grants| {
                grants.insert((*grantee).into(), grant);
                Ok(())
            })?)
        }
        ("DELETE", ["v1", "models", name, "grants", grantee]) => {
            view(engine.store.change_grants(name, client, |grants| {
                // Whoever may not ask anyway may ask no more.
                grants.remove(*grantee);
                Ok(())
            })?)
        }
        ("POST", ["v1", "jobs"]) => json(&JobView::new(engine, engine.take_job(client, body)?)),
        ("GET", ["v1", "jobs"]) => {
            let jobs = engine.store.jobs_where(MOST_LISTED, |b| b.owner == client || b.receiver == client)?;
            json(&jobs.into_iter().map(|j| JobView::new(engine, j)).collect::<Vec<_>>())
        }
        ("GET", ["v1", "jobs", id]) => json(&JobView::new(engine, engine.job_for(id.parse()?, client)?)),
        ("GET", ["v1", "jobs", id, "public"]) => {
            let job = engine.job_for(id.parse()?, client)?;
            json(&*engine.public(job.public, &job.program)?)
        }
        ("GET", ["v1", "jobs", id, "answer"]) => {
            let job = engine.job_for(id.parse()?, client)?;
            if job.receiver != client {
                return Err(Fault::refused(format!("the answer of job {id} is for {}", job.receiver)));
            }
            match (&job.state, &job.answer) {
                // Whether the others have theirs of the same run, the receiver sees.
                (State::Done | State::Queued, Some(answer)) => {
                    let bytes = engine.store.whole(answer.shares)?.to_vec();
                    Ok(Said::Answer { bytes, made: answer.made, program: job.program.clone() })
                }
                (State::Failed(fault), _) => Err(fault.clone()),
                _ => Err(Fault::new(Blame::Conflict, format!("job {id} is not answered yet"))),
            }
        }
        ("DELETE", ["v1", "jobs", id]) => engine.forget(id.parse()?, client).map(|()| Said::Nothing),
        (_, ["v1", ..]) => Err(Fault::unknown(format!("there is no call {} {}", call.method, call.path))),
        (_, [first, ..]) if first.starts_with('v') => Err(other_version(&call.path)),
        _ => Err(Fault::refused(format!("{} is for operators", call.path))),
    }
}

/// This server's shares of what a training opened to the model's owner.
fn opened(engine: &Engine, name: &str, client: &str, of: impl Fn(&Training) -> Option<(Id, Made)>) -> Result<Said> {
    let model = engine.known_model(name, client)?;
    if model.owner != client {
        return Err(Fault::refused(format!("what the training of {name} opened is for {}", model.owner)));
    }
    let found = model.training.as_ref().and_then(of);
    let (shares, made) =
        found.ok_or_else(|| Fault::new(Blame::Conflict, format!("{name} has opened no such thing")))?;
    Ok(Said::Answer { bytes: engine.store.whole(shares)?.to_vec(), made, program: model.program })
}

fn operator(engine: &Engine, call: &Call) -> Result<Said> {
    const TEXT: &str = "text/plain; charset=utf-8";
    match (call.method.as_str(), call.path.as_str()) {
        ("GET", "/healthz") => Ok(Said::Text(TEXT, "ok\n".into())),
        ("GET", "/readyz") => {
            if engine.is_stopping() {
                return Err(Fault::limit("the server is stopping"));
            }
            engine.store.is_writable()?;
            Ok(Said::Text(TEXT, "ok\n".into()))
        }
        ("GET", "/metrics") => {
            Ok(Said::Text("text/plain; version=0.0.4; charset=utf-8", engine.metrics.text(&engine.gauges()?)))
        }
        ("GET", "/") => Ok(Said::Text("text/html; charset=utf-8", crate::status::page(engine)?)),
        _ => Err(Fault::refused(format!("{} is none of an operator's pages", call.path))),
    }
}
