//! What clients call of trainings: rows are given, losses and trained states are fetched. The rest is as for any model.

use crate::client::{Client, Fetched, Known, json};
use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use crate::push::{RowsHead, head};
use crate::shares::{MOST_RUNS, Made, PARTIES, Steps, frame_bytes, heard, hearing, share_inputs};
use crate::wire::ModelView;
use hyper::Method;
use sordino_mpc::{Role, Width};
use sordino_nn::exec::{decode_outputs, openings, output_widths, state_opening};
use sordino_nn::program::Program;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// How often rows are given once more when servers were about to begin with others, and after what time.
const AGAIN: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);

/// The steps of a session of a training up to its first run.
fn steps(session: Id) -> Steps {
    let mut steps = Steps::new(session.0);
    drop((steps.load(), steps.agree()));
    steps
}

fn misbehaved(program: &Program, e: sordino_mpc::Error) -> Fault {
    Fault::new(Blame::PeerMisbehaved, e.sentence(&|end| program.topology().name(end)))
}

impl Client {
    /// Gives the rows of one of a training's data owners, as which this client is named. `inputs` are the encoded inputs of an iteration, those of other
    /// owners left empty; `sent` counts bytes.
    ///
    /// # Errors
    /// When a server refuses or is lost; rows may be given again until the training begins.
    pub fn give_rows(
        &self,
        model: &Known,
        owner: usize,
        mut inputs: impl FnMut(usize) -> Result<Vec<Vec<i64>>> + Send,
        sent: &Arc<AtomicU64>,
    ) -> Result<()> {
        let course = model.public.course()?;
        let (step, runs) = (&course.step, course.iterations);
        let each = |party| course.rows_bytes(owner, party);
        let path = format!("/v1/models/{}/rows", model.view.name);
        let mut again = 0;
        loop {
            let program = model.view.program.clone();
            let rows = head(&RowsHead { id: Id::fresh()?, upload: model.view.upload, program, owner })?;
            let inputs = &mut inputs;
            let given =
                self.upload(&Method::PUT, &path, &rows, each, sent, |out| share_inputs(step, owner, runs, inputs, out));
            match given {
                // Servers that were about to begin with rows of before refuse these, while others have taken them: they do not begin with
                // either, and take them now.
                Err(e) if e.kind == Blame::Conflict && again < AGAIN => std::thread::sleep(PAUSE),
                given => return given,
            }
            again += 1;
        }
    }

    /// Takes this client's rows back from a training that is not under way.
    ///
    /// # Errors
    /// When there are none, or it is; those of the calls.
    pub fn withdraw_rows(&self, name: &str) -> Result<()> {
        crate::names::model(name)?;
        self.all(&Method::DELETE, &format!("/v1/models/{name}/rows"), None).map(drop)
    }

    /// Tries a training of this client's that failed again, from its last checkpoint on.
    ///
    /// # Errors
    /// Those of the calls.
    pub fn try_training_again(&self, name: &str) -> Result<()> {
        crate::names::model(name)?;
        self.all(&Method::POST, &format!("/v1/models/{name}/again"), None).map(drop)
    }

    /// A model as each server sees it.
    ///
    /// # Errors
    /// Those of the calls.
    pub fn views(&self, name: &str) -> Result<[ModelView; PARTIES]> {
        crate::names::model(name)?;
        let [a, b, c] = self.all(&Method::GET, &format!("/v1/models/{name}"), None)?;
        Ok([json(&a)?, json(&b)?, json(&c)?])
    }

    fn opened(&self, path: &str, program: &str, most: u64) -> Result<Fetched> {
        let fetched = Fetched::of(self.all(&Method::GET, path, None)?.map(Ok))?;
        if fetched.program != program {
            return Err(Fault::new(Blame::Conflict, "the model was pushed anew meanwhile; ask again"));
        }
        fetched.at_most(most)?;
        Ok(fetched)
    }

    /// A stretch of losses that a training opened to this client, the model's owner, as [`crate::wire::TrainingView`] names it.
    ///
    /// # Errors
    /// When shares do not fit together; those of the calls.
    pub fn losses(&self, model: &Known, stretch: usize, (made, count): (Made, usize)) -> Result<Vec<f32>> {
        let program = &model.public.course()?.step;
        let path = format!("/v1/models/{}/losses/{stretch}", model.view.name);
        let shape = |o: &sordino_nn::program::Port| program.slots[o.slot].shape.clone();
        let most =
            program.outputs.iter().map(|o| frame_bytes(shape(o).len())).sum::<u64>().saturating_mul(count as u64);
        let fetched = self.opened(&path, &model.view.program, most)?;
        if fetched.made != made || !(1..=MOST_RUNS).contains(&made.run) || count as u64 > MOST_RUNS {
            return Err(Fault::new(Blame::PeerMisbehaved, "the losses are of another session than was said"));
        }
        let client = hearing(program, Role::Receiver, fetched.bytes);
        let widths = output_widths(program).map_err(|e| Fault::usage(e.to_string()))?;
        let mut steps = steps(made.session);
        (1..made.run).for_each(|_| drop(steps.run()));
        let mut losses = vec![];
        for _ in 0..count {
            let openings = openings(program, steps.run());
            let mut outputs = vec![];
            for ((port, step), width) in program.outputs.iter().zip(openings.outputs).zip(&widths) {
                let opened = heard(&client, step, &shape(port), *width, Role::Receiver);
                outputs.push(opened.map_err(|e| misbehaved(program, e))?);
            }
            losses.extend(decode_outputs(program, &outputs).first().map(|loss| loss.data[0]));
        }
        Ok(losses)
    }

    /// The states that a training opened to this client, the model's owner, at its end: integers of each.
    ///
    /// # Errors
    /// When there are none, or shares do not fit together; those of the calls.
    pub fn trained(&self, model: &Known) -> Result<Vec<Vec<i64>>> {
        let course = model.public.course()?;
        let program = &course.step;
        let mut shapes = program.state_shapes();
        shapes.truncate(course.opened);
        let most = shapes.iter().map(|s| frame_bytes(s.len())).sum();
        let fetched = self.opened(&format!("/v1/models/{}/opened", model.view.name), &model.view.program, most)?;
        let made = fetched.made;
        if made.run > MOST_RUNS {
            return Err(Fault::new(Blame::PeerMisbehaved, "the model is said to be of a run that no session has"));
        }
        let client = hearing(program, Role::ModelOwner, fetched.bytes);
        let mut steps = steps(made.session);
        (0..made.run).for_each(|_| drop(steps.run()));
        let mut opened = vec![];
        for shape in shapes {
            let step = state_opening(steps.state());
            let state = heard(&client, step, &shape, Width::Wide, Role::ModelOwner);
            opened.push(state.map_err(|e| misbehaved(program, e))?);
        }
        Ok(opened)
    }
}
