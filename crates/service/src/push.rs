//! Taking in what clients upload: a head in JSON, then a share set whose length follows from the program.

use crate::clock::now;
use crate::course::Course;
use crate::engine::Engine;
use crate::fault::{Fault, Result};
use crate::files::{Writing, of_io};
use crate::names::{self, Id, hexadecimal};
use crate::records::{Grant, Job, Model, State};
use crate::shares::{PARTIES, Splitter, What, servable, share_bytes};
use crate::trainings::Training;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sordino::inputs::Preprocess;
use sordino::price::Price;
use sordino_mpc::{MOST_OWNERS, rep3};
use sordino_nn::program::Program;
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// Longest head of a pushed model: a program with long tables.
const MODEL_HEAD: u64 = 256 << 20;
/// Longest head of a job.
const JOB_HEAD: u64 = 4096;

/// A program for several jobs at once, each with a data owner and outputs of its own.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// How many jobs.
    pub rows: usize,
    /// The program, with the same weights.
    pub program: Program,
}

impl Beside {
    /// Whether it does for several jobs what a program does for one.
    ///
    /// # Errors
    /// What differs.
    pub fn check(&self, single: &Program) -> Result<()> {
        let (rows, program) = (self.rows, &self.program);
        let differs = |what: &str| Err(Fault::usage(format!("the program for several jobs has other {what}")));
        if !(2..=usize::from(MOST_OWNERS)).contains(&rows) || usize::from(program.owners()) != rows {
            return differs("owners");
        }
        crate::shares::runnable(program)?;
        if program.guarded != rows * single.guarded {
            return differs("guards");
        }
        if program.settings != single.settings || !same_weights(program, single) {
            return differs("weights");
        }
        let owners = program.inputs.iter().enumerate().all(|(i, p)| usize::from(p.owner) == i % rows);
        let [inputs, outputs] =
            [(&program.inputs, &single.inputs), (&program.outputs, &single.outputs)].map(|(many, one)| {
                many.len() == rows * one.len()
                    && many.iter().enumerate().all(|(i, p)| {
                        let q = &one[i / rows];
                        let sizes = (program.slots[p.slot].shape.len(), single.slots[q.slot].shape.len());
                        (&p.dims, p.scale, &p.columns) == (&q.dims, q.scale, &q.columns)
                            && p.limit <= q.limit
                            && sizes.0 == sizes.1
                    })
            });
        if owners && inputs && outputs { Ok(()) } else { differs("inputs or outputs") }
    }
}

/// Whether two programs take the same share set of weights.
fn same_weights(a: &Program, b: &Program) -> bool {
    (0..PARTIES).all(|party| {
        let of = |program| crate::shares::segments(program, What::Model, party);
        of(a) == of(b)
    })
}

/// What is public of a model.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Public {
    /// The program.
    pub program: Program,
    /// How samples become its inputs, and the names of classes.
    pub preprocess: Preprocess,
    /// Whether its one output is the number of the best class.
    pub class: bool,
    /// For jobs that wait together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
    /// How it is trained before it answers, of a model that is trained here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Course>,
}

impl Public {
    /// What servers and clients compare: hashes of the programs and of what belongs to them.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let beside = self.beside.as_ref().map_or([0; 32], |b| b.program.hash());
        let hash = Sha256::new()
            .chain_update(b"sordino model v1")
            .chain_update(self.program.hash())
            .chain_update(self.preprocess.hash())
            .chain_update([u8::from(self.class)])
            .chain_update(beside);
        let training = self.training.as_ref().map(Course::digest);
        training.iter().fold(hash, |hash, digest| hash.chain_update(digest)).finalize().into()
    }

    /// The program whose secrets its owner shares: that of an iteration, if it is trained here.
    #[must_use]
    pub fn shared(&self) -> &Program {
        self.training.as_ref().map_or(&self.program, |t| &t.step)
    }

    /// How it is trained.
    ///
    /// # Errors
    /// When it is not trained here.
    pub fn course(&self) -> Result<&Course> {
        self.training.as_ref().ok_or_else(|| Fault::usage("the model is not trained here"))
    }

    /// The same as hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        hexadecimal(&self.digest())
    }

    /// Jobs of one run, at most.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.beside.as_ref().map_or(1, |b| b.rows)
    }

    /// The program of a run of so many jobs.
    #[must_use]
    pub fn program_for(&self, jobs: usize) -> &Program {
        match &self.beside {
            Some(beside) if jobs > 1 => &beside.program,
            _ => &self.program,
        }
    }

    /// Whether servers run it.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<()> {
        servable(&self.program)?;
        match &self.training {
            Some(_) if self.beside.is_some() => Err(Fault::usage("a model that is trained here answers one by one")),
            Some(training) => training.check(&self.program),
            // What answers with states needs a training that leaves them.
            None if !self.program.states.is_empty() => Err(Fault::usage("the program is no inference")),
            None => self.beside.as_ref().map_or(Ok(()), |b| b.check(&self.program)),
        }
    }

    /// Memory of a session with it, as plans bound it.
    ///
    /// # Errors
    /// When a program does what servers cannot.
    pub fn memory(&self) -> Result<u64> {
        let beside = self.beside.as_ref().map_or(Ok(0), |b| memory(&b.program))?;
        let training = self.training.as_ref().map_or(Ok(0), |t| memory(&t.step))?;
        Ok(memory(&self.program)?.saturating_add(beside).max(training))
    }

    /// Reads it; the program must be one that servers run.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let public: Self = serde_json::from_slice(bytes)
            .map_err(|e| Fault::new(crate::Blame::Incompatible, format!("it is no model of this version: {e}")))?;
        public.check()?;
        Ok(public)
    }
}

/// The head of a pushed model.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelHead {
    /// Of this upload.
    pub upload: Id,
    /// Who may ask; those who could before, where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<BTreeMap<String, Grant>>,
    /// What is public.
    pub public: Public,
}

/// The head of a submitted job.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobHead {
    /// Of the job.
    pub id: Id,
    /// The model.
    pub model: String,
    /// The upload of the model that the inputs were made for.
    pub upload: Id,
    /// Who receives the answer.
    pub receiver: String,
}

/// The head of a data owner's rows.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsHead {
    /// Of this upload of rows.
    pub id: Id,
    /// The upload of the model that they are for.
    pub upload: Id,
    /// Hash of what is public of it, as their owner has seen it.
    pub program: String,
    /// Which of the training's data owners they are of.
    pub owner: usize,
}

/// A head as it travels.
///
/// # Errors
/// When it cannot be written down.
pub fn head(value: &impl Serialize) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(value).map_err(|e| Fault::internal("a head", &e))?;
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}

pub(crate) fn read_head<T: DeserializeOwned>(body: &mut impl Read, most: u64) -> Result<T> {
    let short = |e: std::io::Error| Fault::usage(format!("the upload ended in its head: {e}"));
    let mut length = [0; 8];
    body.read_exact(&mut length).map_err(short)?;
    let length = u64::from_le_bytes(length);
    if length > most {
        return Err(Fault::limit(format!("the upload's head has {length} bytes; {most} are possible")));
    }
    let mut bytes = vec![];
    body.take(length).read_to_end(&mut bytes).map_err(short)?;
    if bytes.len() as u64 != length {
        return Err(Fault::usage("the upload ended in its head"));
    }
    serde_json::from_slice(&bytes)
        .map_err(|e| Fault::new(crate::Blame::Incompatible, format!("the upload's head is not of this version: {e}")))
}

/// Memory of a session with a program, as its plan bounds it.
///
/// # Errors
/// When the program does what servers cannot.
pub fn memory(program: &Program) -> Result<u64> {
    let price = Price::of::<rep3::Declared>(program);
    price.map(|p| p.memory).map_err(|e| Fault::usage(format!("the program cannot be run: {e}")))
}

/// Seals a share set, and hashes its components. It must be exactly as long as the program says.
pub(crate) fn take_shares(body: &mut impl Read, file: &mut Writing<'_>, mut splitter: Splitter) -> Result<[String; 2]> {
    let mut piece = zeroize::Zeroizing::new(vec![0; 1 << 16]);
    loop {
        let n = body.read(&mut piece).map_err(|e| Fault::usage(format!("the upload broke off: {e}")))?;
        if n == 0 {
            return splitter.finish();
        }
        splitter.take(&piece[..n])?;
        file.write_all(&piece[..n]).map_err(|e| of_io("a share set cannot be kept", &e))?;
    }
}

impl Engine {
    /// Takes in a model that a client pushes.
    ///
    /// # Errors
    /// Why not.
    pub fn take_model(&self, name: &str, client: &str, mut body: impl Read) -> Result<Model> {
        names::model(name)?;
        // Refused before anything large is read.
        self.may_push(name, client, 0, 0)?;
        let ModelHead { upload, grants, public } = read_head(&mut body, MODEL_HEAD)?;
        public.check()?;
        for (grantee, grant) in grants.iter().flatten() {
            names::client(grantee)?;
            grant.check()?;
        }
        let party = self.config.party;
        let bytes = share_bytes(public.shared(), What::Model, party);
        let memory = public.memory()?;
        self.may_push(name, client, bytes, memory)?;
        let json = serde_json::to_vec(&public).map_err(|e| Fault::internal("the program", &e))?;
        let mut file = self.store.create()?;
        let components = take_shares(&mut body, &mut file, Splitter::new(public.shared(), What::Model, party))?;
        let mut kept = self.store.create()?;
        kept.write_all(&json).map_err(|e| of_io("the program cannot be kept", &e))?;
        let shares = file.finish()?;
        let public_id = kept.finish().inspect_err(|_| self.store.discard([shares]))?;
        let mut model = Model {
            name: name.into(),
            owner: client.into(),
            upload,
            program: public.hash(),
            public: public_id,
            shares,
            components,
            grants: grants.clone().unwrap_or_default(),
            bytes: (0..PARTIES).map(|party| share_bytes(public.shared(), What::Model, party)).sum(),
            memory,
            created: now(),
            training: public.training.as_ref().map(Training::new),
        };
        self.put_model(&mut model, grants.is_none()).inspect_err(|_| self.store.discard([shares, public_id]))?;
        Ok(model)
    }

    /// Takes in a job that a client submits.
    ///
    /// # Errors
    /// Why not.
    pub fn take_job(&self, client: &str, mut body: impl Read) -> Result<Job> {
        self.has_room(client)?;
        let JobHead { id, model, upload, receiver } = read_head(&mut body, JOB_HEAD)?;
        names::client(&receiver)?;
        let model = self.model_for(&model, client)?;
        if model.upload != upload {
            let why = format!("{} was pushed anew since the inputs were made for it; ask again", model.name);
            return Err(Fault::new(crate::Blame::Conflict, why));
        }
        if !model.answers() {
            return Err(Fault::new(crate::Blame::Conflict, format!("{} is still being trained", model.name)));
        }
        self.may_ask(&model, client, &receiver)?;
        if self.left(&model, client)? == 0 {
            return Err(Fault::limit(format!("the budget of {client} for {} is used up", model.name)));
        }
        let public = self.public(model.public, &model.program)?;
        let mut file = self.store.create()?;
        let splitter = Splitter::new(&public.program, What::Inputs, self.config.party);
        let components = take_shares(&mut body, &mut file, splitter)?;
        let shares = file.finish()?;
        let job = Job {
            id,
            model: model.name,
            upload,
            owner: client.into(),
            receiver,
            program: model.program,
            public: model.public,
            state: State::Queued,
            shares: Some(shares),
            components,
            session: None,
            answer: None,
            created: now(),
            sequence: 0,
            attempts: 0,
            charged: false,
            note: None,
        };
        self.submit(job).inspect_err(|_| self.store.discard([shares]))
    }
}
