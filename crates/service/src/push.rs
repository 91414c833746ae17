//! Taking in what clients upload: a head in JSON, then a share set whose length follows from the program.

use crate::engine::{Engine, now};
use crate::fault::{Fault, Result};
use crate::names::{self, Id, hexadecimal};
use crate::records::{Grant, Job, Model, State};
use crate::shares::{Splitter, What, servable, share_bytes};
use crate::store::{Writing, of_io};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sordino::inputs::Preprocess;
use sordino_mpc::{Plan, Step};
use sordino_nn::exec::Loaded;
use sordino_nn::program::Program;
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// Longest head of an upload: a program with long tables.
const MOST_HEAD: u64 = 256 << 20;

/// What is public of a model.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Public {
    /// The program.
    pub program: Program,
    /// How samples become its inputs, and the names of classes.
    pub preprocess: Preprocess,
    /// Whether its one output is the number of the best class.
    pub class: bool,
}

impl Public {
    /// What servers and clients compare: the program's hash and that of what belongs to it.
    #[must_use]
    pub fn hash(&self) -> String {
        let both = Sha256::new().chain_update(self.program.hash()).chain_update(self.preprocess.hash());
        hexadecimal(&both.chain_update([u8::from(self.class)]).finalize())
    }

    /// Reads it; the program must be one that servers run.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let public: Self = serde_json::from_slice(bytes)
            .map_err(|e| Fault::new(crate::Blame::Incompatible, format!("it is no model of this version: {e}")))?;
        servable(&public.program)?;
        Ok(public)
    }
}

/// The head of a pushed model.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelHead {
    /// Of this upload.
    pub upload: Id,
    /// Who may ask.
    pub grants: BTreeMap<String, Grant>,
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

/// A head as it travels.
///
/// # Errors
/// When it cannot be written down.
pub fn head(value: &impl Serialize) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(value).map_err(|e| Fault::internal("a head", &e))?;
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}

fn read_head<T: DeserializeOwned>(body: &mut impl Read) -> Result<T> {
    let short = |e: std::io::Error| Fault::usage(format!("the upload ended in its head: {e}"));
    let mut length = [0; 8];
    body.read_exact(&mut length).map_err(short)?;
    let length = u64::from_le_bytes(length);
    if length > MOST_HEAD {
        return Err(Fault::limit(format!("the upload's head has {length} bytes; {MOST_HEAD} are possible")));
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
    let planned = || -> sordino_nn::Result<u64> {
        let plan = &Plan::new(program.settings);
        let mut at = Step::root([0; 16]);
        let loaded = Loaded::load(plan, at.child("load"), program, None)?;
        plan.restart();
        loaded.run(plan, at.child("run"), None, |_| ())?;
        Ok(plan.peak_bytes())
    };
    planned().map_err(|e| Fault::usage(format!("the program cannot be run: {e}")))
}

/// Seals a share set, and hashes its components. It must be exactly as long as the program says.
fn take_shares(body: &mut impl Read, file: &mut Writing<'_>, mut splitter: Splitter) -> Result<[String; 2]> {
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
        let ModelHead { upload, grants, public } = read_head(&mut body)?;
        servable(&public.program)?;
        for (grantee, grant) in &grants {
            names::client(grantee)?;
            grant.receivers.iter().try_for_each(|r| names::client(r))?;
        }
        let party = self.config.party;
        let bytes = share_bytes(&public.program, What::Model, party);
        let memory = memory(&public.program)?;
        self.may_push(name, client, bytes, memory)?;
        let json = serde_json::to_vec(&public).map_err(|e| Fault::internal("the program", &e))?;
        let mut file = self.store.create()?;
        let components = take_shares(&mut body, &mut file, Splitter::new(&public.program, What::Model, party))?;
        let mut kept = self.store.create()?;
        kept.write_all(&json).map_err(|e| of_io("the program cannot be kept", &e))?;
        let (shares, public_id) = (file.finish()?, kept.finish()?);
        let model = Model {
            name: name.into(),
            owner: client.into(),
            upload,
            program: public.hash(),
            public: public_id,
            shares,
            components,
            grants,
            bytes,
            memory,
            created: now(),
        };
        self.put_model(&model).inspect_err(|_| self.store.discard([shares, public_id]))?;
        Ok(model)
    }

    /// Takes in a job that a client submits.
    ///
    /// # Errors
    /// Why not.
    pub fn take_job(&self, client: &str, mut body: impl Read) -> Result<Job> {
        self.has_room(client)?;
        let JobHead { id, model, upload, receiver } = read_head(&mut body)?;
        names::client(&receiver)?;
        let model = self.model_for(&model, client)?;
        if model.upload != upload {
            let why = format!("{} was pushed anew since the inputs were made for it; ask again", model.name);
            return Err(Fault::new(crate::Blame::Conflict, why));
        }
        self.may_ask(&model, client, &receiver)?;
        if self.left(&model, client)? == 0 {
            return Err(Fault::limit(format!("the budget of {client} for {} is used up", model.name)));
        }
        let public = self.public(&model)?;
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
            state: State::Queued,
            shares: Some(shares),
            components,
            answer: None,
            created: now(),
            sequence: 0,
            attempts: 0,
            charged: false,
            note: None,
        };
        self.submit(job.clone()).inspect_err(|_| self.store.discard([shares]))?;
        Ok(job)
    }
}
