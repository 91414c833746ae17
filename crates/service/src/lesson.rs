//! A session in which the three servers train a model: from its last checkpoint on, to its end or until one of them wants to rest.

use crate::agree::{Agreed, Wish, agree, common, kept, of_session, wish};
use crate::engine::Engine;
use crate::fault::{Blame, Fault, Result};
use crate::kinds::Ran;
use crate::learning::Left;
use crate::names::Id;
use crate::push::Public;
use crate::records::Model;
use crate::session::{Mails, party_net};
use crate::shares::{Made, Steps, What, share_bytes};
use crate::trainings::{Checkpoint, Spent, Training};
use sordino::compute::OnDevice;
use sordino_mpc::rep3::{Rep3, SessionInfo, establish};
use sordino_mpc::{Party, System};
use sordino_net::Net;
use sordino_nn::exec::Loaded;
use sordino_nn::program::Program;
use sordino_ring::Device;
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// A session whose servers have agreed on a training: what is left needs a device.
pub(crate) struct Lesson<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) session: Id,
    pub(crate) model: &'a Model,
    pub(crate) public: &'a Public,
    pub(crate) net: Net,
    pub(crate) mail: &'a Mails,
    /// Whether it was begun, so that a failure counts.
    pub(crate) begun: &'a Cell<bool>,
}

/// A server's shares of all states, from a sealed file.
pub(crate) fn states<P: Party>(engine: &Engine, party: &P, program: &Program, shares: Id) -> Result<Vec<P::Arith>> {
    let bytes = engine.store.whole(shares)?;
    party.import(&bytes, &program.state_shapes()).map_err(|e| of_session(&e.into()))
}

impl OnDevice for Lesson<'_> {
    type Out = Result<()>;

    fn run<D: Device>(self, device: D) -> Result<()> {
        let Self { engine, session, model, public, net, mail, begun } = self;
        let course = public.course()?;
        let others = engine.peers.others();
        let upload = model.upload;
        let held: Vec<(Made, usize)> =
            model.training.iter().flat_map(|t| &t.kept).map(|k| (k.made, k.iteration)).collect();
        let from = common(&net, others, &held)?;
        if from.is_none() {
            engine.loosen(upload)?;
        }
        // Everybody has the same rows, and those of each owner fit together.
        let rows = engine.judge_rows(session, model);
        let ready = |results: &[Result<Agreed>]| {
            // Begun before any of us goes on: rows cannot be given anew from now on.
            let all = results.iter().all(Result::is_ok);
            let result = if all { engine.begin_training(session, model).map(|()| begun.set(true)) } else { Ok(()) };
            results.iter().map(|_| result.clone()).collect()
        };
        let agreed = agree(&net, others, &rows, ready)?;
        for (agreed, owner) in agreed.into_iter().zip(&course.owners) {
            if let Err(fault) = agreed {
                let fault = fault.at(&format!("the rows of {owner}"));
                // What is under way comes yet; share sets that differ stay different.
                if fault.kind == Blame::Usage {
                    engine.fail_training(upload, fault.clone())?;
                }
                return Err(fault);
            }
        }
        let info = SessionInfo { session: session.0, program: public.digest() };
        let keys = establish(&net, &info, &System).map_err(|e| of_session(&e.into()))?;
        let training = model.training.as_ref().ok_or_else(|| Fault::unknown("the training is gone"))?;
        let last = from.and_then(|(made, _)| training.kept.iter().find(|k| k.made == made));
        let party = Rep3::new(device, net, keys, course.step.settings).map_err(|e| of_session(&e.into()))?;
        let mut steps = Steps::new(session.0);
        mail.model.leave(engine.store.opener(model.shares)?);
        let loaded = Loaded::load(&party, steps.load(), &course.step, None).map_err(|e| of_session(&e))?;
        let done = match last {
            Some(last) => {
                let kept = states(engine, &party, &course.step, last.shares)?;
                loaded.resume(&party, steps.agree(), Some(kept), last.iteration).map_err(|e| of_session(&e))?;
                last.iteration
            }
            None => {
                loaded.agree(&party, steps.agree()).map_err(|e| of_session(&e))?;
                0
            }
        };
        give_rows(engine, training, &course.step, mail, done)?;
        engine.saw(None);
        let name = &model.name;
        tracing::info!(party = engine.config.party, session = %session, model = %name, iteration = done, "a training goes on");
        let (spent, from) = (training.spent, last.map(|k| (k.made, k.iteration)));
        let under = Under {
            engine,
            session,
            upload,
            name,
            program: &course.step,
            party: &party,
            loaded: &loaded,
            mail,
            steps,
            spent,
            from,
        };
        under.on(done, course.iterations, course.opened)
    }
}

impl Engine {
    /// A training is over at all three servers: each says so, and knows then that all know.
    pub(crate) fn over(&self, net: &Net, upload: Id, made: Made) -> Result<Model> {
        let own = self.trained(upload, made).map(drop);
        let mut told = kept(net, self.peers.others(), vec![own])?;
        told.pop().unwrap_or(Ok(()))?;
        self.confirm_trained(upload)
    }
}

/// Leaves what owners gave, without what iterations that are done have taken.
fn give_rows(engine: &Engine, training: &Training, program: &Program, mail: &Mails, done: usize) -> Result<()> {
    for (owner, (mail, rows)) in mail.data.iter().zip(&training.rows).enumerate() {
        let given = rows.given.as_ref().ok_or_else(|| Fault::internal("the rows", &"they are gone"))?;
        let mut opener = engine.store.opener(given.shares)?;
        let taken = share_bytes(program, What::Rows(owner), engine.config.party).saturating_mul(done as u64);
        io::copy(&mut (&mut opener).take(taken), &mut io::sink())
            .map_err(|e| crate::files::of_io("the rows cannot be read", &e))?;
        mail.leave(opener);
    }
    Ok(())
}

/// A training under way.
struct Under<'a, D: Device> {
    engine: &'a Engine,
    session: Id,
    upload: Id,
    name: &'a str,
    program: &'a Program,
    party: &'a Rep3<D>,
    loaded: &'a Loaded<'a, Rep3<D>>,
    mail: &'a Mails,
    steps: Steps,
    spent: Spent,
    /// The checkpoint it began from, and the iterations that has.
    from: Option<(Made, usize)>,
}

impl<D: Device> Under<'_, D> {
    /// From an iteration on.
    fn on(mut self, mut done: usize, iterations: usize, opened: usize) -> Result<()> {
        let (engine, net, others) = (self.engine, party_net(self.party), self.engine.peers.others());
        let pause = Duration::from_secs_f64(engine.config.limits.checkpoint_seconds);
        let (mut before, mut losses, mut kept_at) = (done, vec![], Instant::now());
        // All iterations may be done, and only what is opened at the end be missing.
        while done < iterations {
            losses.push(self.iteration()?);
            done += 1;
            engine.progress(self.upload, done);
            if engine.leads() {
                engine.queue.works(self.upload);
            }
            let asked = wish(net, others, self.wish(done == iterations, kept_at.elapsed() >= pause)?)?;
            if asked == Wish::Leave {
                return Err(Fault::unknown("the model is gone, or a server leaves"));
            }
            if asked > Wish::GoOn && done < iterations {
                self.keep(done, (before, std::mem::take(&mut losses)), None)?;
                (before, kept_at) = (done, Instant::now());
                if asked == Wish::Rest {
                    return Ok(());
                }
            }
        }
        let mut states = Zeroizing::new(vec![]);
        for state in 0..opened {
            let at = self.steps.state();
            self.loaded.open_state(self.party, at, state).map_err(|e| of_session(&e))?;
            self.mail.model.opened().iter().for_each(|frame| states.extend_from_slice(frame));
        }
        self.keep(done, (before, losses), Some(&states))?;
        engine.over(net, self.upload, Made { session: self.session, run: self.steps.runs(), row: None }).map(drop)
    }

    /// What this server wants after an iteration.
    fn wish(&self, last: bool, due: bool) -> Result<Wish> {
        let engine = self.engine;
        let is_there = engine.store.model(self.name)?.is_some_and(|m| m.upload == self.upload);
        Ok(match () {
            () if !is_there => Wish::Leave,
            () if last => Wish::GoOn,
            // Another model waits for the place of this one, or this server stops.
            () if engine.is_stopping() || engine.leads() && engine.queue.wants_end(self.upload) => Wish::Rest,
            () if due => Wish::Keep,
            () => Wish::GoOn,
        })
    }

    /// One iteration; what it opened, as bytes.
    fn iteration(&mut self) -> Result<Vec<u8>> {
        let ran = Ran::of(self.engine, self.party, self.loaded, self.program, self.steps.run(), "an iteration")?;
        self.spent.seconds += ran.took.as_secs_f64();
        self.spent.payload += ran.meter.payload();
        self.spent.wire += ran.meter.wire;
        self.spent.rounds = ran.meter.rounds;
        self.engine.metrics.trained(self.name, &ran);
        Ok(self.mail.receiver.opened().concat())
    }

    /// Keeps the states, and what was opened since the last time; the training goes on when all servers have.
    fn keep(&self, iteration: usize, (before, losses): (usize, Vec<Vec<u8>>), opened: Option<&[u8]>) -> Result<()> {
        let (engine, run) = (self.engine, self.steps.runs());
        let made = |run| Made { session: self.session, run, row: None };
        let keep = || -> Result<()> {
            let shares = self.party.export(&self.loaded.states()).map_err(|e| of_session(&e.into()))?;
            let mut file = engine.store.create()?;
            file.write_all(&shares).map_err(|e| crate::files::of_io("a checkpoint cannot be kept", &e))?;
            let checkpoint = Checkpoint { made: made(run), iteration, shares: file.finish()? };
            let first = run + 1 - losses.len() as u64;
            let losses = (!losses.is_empty() && !losses[0].is_empty()).then(|| (made(first), before, losses));
            let (from, spent) = (self.from, self.spent);
            engine.keep_training(self.upload, Left { from, checkpoint, losses, opened, spent })
        };
        let mut results = kept(party_net(self.party), engine.peers.others(), vec![keep()])?;
        results.pop().unwrap_or(Ok(()))?;
        tracing::info!(party = engine.config.party, model = %self.name, iteration, "a checkpoint is kept");
        Ok(())
    }
}
