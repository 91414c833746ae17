//! `sordino contribute`: a data owner gives its rows to a training on servers that stay.

use super::To;
use crate::train::give_rows;
use crate::{human_bytes, json, print};
use clap::Args;
use serde::Serialize;
use sordino::data::{self, Set};
use sordino::inputs::Take;
use sordino::prepared::encode_rows;
use sordino::{Error, Result};
use sordino_nn::program::Port;
use sordino_service::Fault;
use sordino_service::client::Known;
use sordino_service::course::Course;
use sordino_service::trainings::Stage;
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `contribute`.
#[derive(Args)]
pub(crate) struct Contribute {
    /// The model's name at the servers.
    model: String,
    #[command(flatten)]
    to: To,
    /// Samples, as for `sordino train`: one folder, .npz file or table that holds labels too, or files with --labels.
    #[arg(long, num_args = 1.., required_unless_present_any = ["withdraw", "show"])]
    data: Vec<PathBuf>,
    /// Their labels.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// The column of a table that holds the labels [default: the one called label, target, class or y].
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// Show what the training takes and what it opens, and send nothing.
    #[arg(long)]
    show: bool,
    /// Give rows only to the training whose program has this hash, as --show tells it.
    #[arg(long, value_name = "HASH")]
    program: Option<String>,
    /// Instead of giving rows: take back those that are there, of a training that is not under way.
    #[arg(long, conflicts_with_all = ["show", "program", "data", "labels", "target"])]
    withdraw: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What a data owner gives.
#[derive(Serialize)]
struct Given {
    model: String,
    model_owner: String,
    /// Hash of all that is public of it.
    program: String,
    /// Whose rows it takes, this client's too.
    owners: Vec<String>,
    samples: usize,
    /// Of these samples in each iteration, and how many iterations there are.
    rows: usize,
    iterations: usize,
    /// Whether the model's owner hears the loss of every iteration, and gets the trained model.
    tells_loss: bool,
    opens_model: bool,
    /// Samples of all owners in an iteration.
    batch: usize,
    bytes: [u64; 3],
    /// Where the training is.
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
    seconds: f64,
}

impl Given {
    fn shown(&self) -> String {
        let owner = &self.model_owner;
        let mut opened = vec![];
        if self.tells_loss {
            opened.push(format!("a number of every iteration (its loss) to {owner}"));
        }
        if self.opens_model {
            opened.push(format!("the trained model to {owner}"));
        }
        opened.push(format!("answers of the model to whom {owner} lets ask it"));
        let mut text = format!(
            "{} of {owner}, program {}: {}\n{} iterations of {} samples of {}; {} of them are yours, of {}\npublic: how many samples, and their order; secret: samples and labels\nopened: {}. What these tell is up to the program, which is {owner}'s\nshares: {}, {} and {} for servers 0, 1 and 2\n",
            self.model,
            self.program,
            self.state,
            self.iterations,
            self.batch,
            self.owners.join(", "),
            self.rows,
            self.samples,
            opened.join("; "),
            human_bytes(self.bytes[0]),
            human_bytes(self.bytes[1]),
            human_bytes(self.bytes[2]),
        );
        text += &self.warning.map(|w| format!("{w}\n")).unwrap_or_default();
        text
    }
}

/// Fewer samples or iterations than this hide a sample badly.
const FEW: usize = 8;

impl Contribute {
    pub(crate) fn run(self) -> Result<()> {
        let start = Instant::now();
        let fleet = self.to.fleet()?;
        let client = &fleet.clients()[0];
        if self.withdraw {
            client.withdraw_rows(&self.model)?;
            let done = serde_json::json!({ "done": "withdrawn", "model": self.model });
            return print(&if self.json { json(&done)? } else { format!("your rows of {} are gone\n", self.model) });
        }
        let known = client.model(&self.model)?;
        if let Some(other) = self.program.as_ref().filter(|p| **p != known.view.program) {
            let why = format!("the program of {} is {}, and not {other}", self.model, known.view.program);
            return Err(Error::Usage(why));
        }
        let training = known.view.training.as_ref();
        let training =
            training.ok_or_else(|| Error::Usage(format!("{} takes no rows: it is not trained there", self.model)))?;
        let course = known.public.course()?;
        // Of several that are this client's, the first whose rows are not there.
        let mine = |(owner, _): &&(String, bool)| owner == client.name();
        let own = training.rows.iter().enumerate().filter(|(_, r)| mine(r));
        let Some((owner, _)) = own.clone().find(|(_, r)| !r.1).or_else(|| own.clone().next()) else {
            let names: Vec<&str> = course.owners.iter().map(String::as_str).collect();
            let why = format!("{} takes the rows of {}, and none of {}", self.model, names.join(", "), client.name());
            return Err(Error::Usage(why));
        };
        let bytes = [0, 1, 2].map(|party| course.rows_bytes(owner, party));
        let mut given = Given {
            model: self.model.clone(),
            model_owner: known.view.owner.clone(),
            program: known.view.program.clone(),
            owners: course.owners.clone(),
            batch: course.batch,
            samples: course.samples[owner],
            rows: course.step.inputs[owner].dims.first().copied().unwrap_or(0),
            iterations: course.iterations,
            tells_loss: course.tells_loss(),
            opens_model: course.opened > 0,
            bytes,
            state: training.shown(),
            warning: ([course.iterations, course.batch, course.samples[owner]].iter().any(|n| *n < FEW))
                .then_some("few samples or iterations: what is opened may tell single samples"),
            seconds: 0.0,
        };
        if !self.show && matches!(training.stage, Stage::Begun | Stage::Trained | Stage::Done) {
            let (name, state) = (&self.model, training.shown());
            return Err(Error::Usage(format!("{name} takes no rows any more: {state}")));
        }
        if self.show {
            return print(&if self.json { json(&given)? } else { given.shown() });
        }
        let set = self.set(&known, course, owner)?;
        if !self.json {
            print(&given.shown())?;
        }
        let order = course.order_of(owner);
        let answers = labels(course, owner)?.dims.last().copied().unwrap_or(0);
        let inputs = |run: usize| -> sordino_service::Result<Vec<Vec<i64>>> {
            let batch = set.batch(&order[run], answers);
            encode_rows(&course.step, owner, &batch).map_err(|e| Fault::usage(e.to_string()))
        };
        give_rows(client, &known, owner, inputs, self.json)?;
        given.seconds = start.elapsed().as_secs_f64();
        if self.json {
            return print(&json(&given)?);
        }
        print(&format!("given in {:.2} s\n", given.seconds))
    }

    /// The rows, as the model takes them.
    fn set(&self, known: &Known, course: &Course, owner: usize) -> Result<Set> {
        let preprocess = &known.public.preprocess;
        let samples = &course.step.inputs[owner];
        let mut dims = samples.dims.clone();
        if let Some(batch) = dims.first_mut() {
            *batch = 1;
        }
        let take = Take { name: samples.name.clone(), dims, batch: Some(0) };
        let answers = labels(course, owner)?.dims.last().copied().unwrap_or(0);
        let labels = self.labels.as_deref();
        let mut set = data::read_with(&self.data, labels, self.target.as_deref(), &take, answers, preprocess)?.train;
        set.number_as(preprocess.classes.as_deref())?;
        let (there, said) = (set.samples.len(), course.samples[owner]);
        if there < said {
            return Err(Error::Usage(format!(
                "the training expects {said} samples of you, and the data have {there}; ask {} to begin it anew",
                known.view.owner
            )));
        }
        if there > said {
            eprintln!("contribute: the training takes the first {said} of {there} samples");
            set = set.first(said);
        }
        Ok(set)
    }
}

/// The port of an owner's labels.
fn labels(course: &Course, owner: usize) -> Result<&Port> {
    let port = course.step.inputs.get(course.owners.len() + owner);
    port.ok_or_else(|| Error::Usage("the training takes no labels".into()))
}
