//! A session of the three servers with one model: from the first connection to the last run.

use crate::agree::{self, Agreed, Turn, Verdict, agree, hear, kept, of_session, say};
use crate::briefs::Phase;
use crate::engine::Engine;
use crate::fault::{Blame, Fault, Result};
use crate::kinds::Ran;
use crate::lesson::{self, Lesson};
use crate::names::Id;
use crate::peers::Meeting;
use crate::push::Public;
use crate::queue::{Next, Waiting};
use crate::records::{Job, Model};
use crate::seal::Opener;
use crate::shares::{MOST_RUNS, Made, Mail, Steps};
use crate::trainings::Training;
use sordino::compute::{OnDevice, on_device};
use sordino_mpc::rep3::{Rep3, SessionInfo, establish};
use sordino_mpc::{Kind, MOST_OWNERS, Role, System};
use sordino_net::{Endpoint, Link, Net};
use sordino_nn::exec::Loaded;
use sordino_ring::Device;
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

/// How a session knows what is next.
enum Lead {
    /// From its own queue, for this upload.
    Here(Id),
    /// From server 0.
    There,
}

/// How far a session came.
#[derive(Default)]
struct Reached {
    /// The upload that it is about.
    upload: Cell<Option<Id>>,
    /// Jobs that are under way.
    jobs: RefCell<Vec<Id>>,
    /// Whether it began to train.
    trains: Cell<bool>,
}

impl Engine {
    /// Leads a session with an upload, until nobody needs it.
    pub(crate) fn lead(&self, upload: Id) {
        let failure = match self.led(upload) {
            Ok(()) => None,
            Err(e) => Some(e.why),
        };
        // A training that is not over waits for its next turn, behind what waits already.
        match self.store.models() {
            Ok(models) => models.iter().filter(|m| m.upload == upload).for_each(|m| self.enqueue(m)),
            Err(e) => {
                tracing::error!(party = self.config.party, upload = %upload, "a training cannot be put back: {e}")
            }
        }
        self.queue.ended(upload, failure);
    }

    fn led(&self, upload: Id) -> Result<()> {
        // Jobs of a model that is gone would begin sessions for ever.
        if !self.store.models()?.iter().any(|m| m.upload == upload) {
            for job in self.queue.jobs_of(upload) {
                self.fail(job, Fault::unknown("the model is gone"))?;
            }
            return Ok(());
        }
        let meeting = self.peers.expect(Id::fresh()?);
        let meeting = meeting.ok_or_else(|| Fault::internal("a session", &"its id is taken"))?;
        self.attend(meeting, &Lead::Here(upload))
    }

    /// Follows the leader's session.
    pub(crate) fn follow(&self, meeting: Meeting) {
        // What failed has been told.
        let _ = self.attend(meeting, &Lead::There);
    }

    fn attend(&self, meeting: Meeting, lead: &Lead) -> Result<()> {
        let session = meeting.session();
        self.metrics.session();
        // A fault of the program ends this session alone; its jobs are those of its upload.
        let reached = Reached::default();
        let run = std::panic::AssertUnwindSafe(|| self.session(meeting, lead, &reached));
        let result = std::panic::catch_unwind(run).unwrap_or_else(|_| {
            *reached.jobs.borrow_mut() = {
                let briefs = self.store.briefs();
                let mine =
                    briefs.iter().filter(|(_, b)| b.phase == Phase::Running && Some(b.upload) == reached.upload.get());
                mine.map(|(id, _)| *id).collect()
            };
            Err(Fault::internal("the session", &"it stopped unexpectedly"))
        });
        let result = result.map_err(|e| self.peers.traced(e));
        if let Err(fault) = &result {
            self.broken_off(session, &reached.jobs.take(), fault);
            if let Some(upload) = reached.upload.get().filter(|_| reached.trains.get()) {
                self.training_broken_off(session, upload, fault);
            }
        }
        self.peers.forget(session);
        if let Err(e) = &result {
            self.saw(Some(e));
            self.metrics.session_failed(e.kind);
            let (party, blame) = (self.config.party, e.kind.name());
            match e.kind {
                // Rows that are under way, a model that was removed.
                Blame::Pending | Blame::Unknown => {
                    tracing::info!(party, session = %session, blame, "a session ended: {e}");
                }
                _ => tracing::warn!(party, session = %session, blame, "a session failed: {e}"),
            }
        }
        result
    }

    fn session(&self, meeting: Meeting, lead: &Lead, reached: &Reached) -> Result<()> {
        let session = meeting.session();
        let others = self.peers.others();
        let mut links = self.peers.meet(meeting)?;
        // Owners who are not there: they leave what they send, and fetch what they receive.
        let mail = Mails::new();
        links.extend(mail.all().map(|m| (m.end(), Box::new(m.clone()) as Box<dyn Link>)));
        let net = Net::new(Endpoint(self.config.party as u8), links);
        let upload = match lead {
            Lead::Here(upload) => {
                say(&net, others, &Turn::Load(*upload))?;
                *upload
            }
            Lead::There => match hear(&net)? {
                Turn::Load(upload) => upload,
                _ => return Err(Fault::new(Blame::PeerMisbehaved, "server 0 began a session without a model")),
            },
        };
        reached.upload.set(Some(upload));
        let found = self.store.models()?.into_iter().find(|m| m.upload == upload);
        let found = found.ok_or_else(|| Fault::unknown("the model is not here"));
        let training = found.as_ref().ok().and_then(|m| m.training.as_ref());
        let verdict = Verdict {
            digest: found.as_ref().map_err(Clone::clone).and_then(|m| {
                m.training.as_ref().map_or(Ok(()), Training::goes_on)?;
                Ok(agree::of_model(session, m))
            }),
            left: u64::MAX,
            able: training.is_none_or(Training::is_due),
            made: training.and_then(Training::became).map(|c| c.made),
            blame: Blame::PeerMisbehaved,
            components: found.as_ref().map(|m| m.components.clone()).unwrap_or_default(),
        };
        let mut agreed = agree(&net, others, &[verdict], |r| r.iter().map(|_| Ok(())).collect())?;
        let agreed = agreed.pop().unwrap_or_else(|| Err(Fault::internal("the session", &"nothing was agreed")));
        let mut model = found?;
        let trains = match (&model.training, agreed) {
            (None, agreed) => agreed.map(|_| false)?,
            (Some(_), Ok(Agreed::Do)) => true,
            (Some(training), Ok(Agreed::Done)) => {
                let became = training.became().ok_or_else(|| Fault::internal("the training", &"its end is gone"))?;
                model = self.over(&net, upload, became.made)?;
                false
            }
            (Some(training), Err(fault)) => {
                // Where it failed at one of us it failed.
                if fault.kind == Blame::Conflict && training.goes_on().is_ok() {
                    self.fail_training(upload, fault.clone())?;
                }
                return Err(fault);
            }
        };
        let public = self.public(model.public, &model.program)?;
        let failed = |e: sordino_ring::DeviceError| Fault::internal("the device", &e);
        let (compute, me) = (self.config.compute(), Endpoint(self.config.party as u8));
        let (model, public, mail) = (&model, &*public, &mail);
        if trains {
            // Busy, before what else waits can tell it to end.
            self.queue.trains(upload);
            let begun = &reached.trains;
            let lesson = Lesson { engine: self, session, model, public, net, mail, begun };
            return on_device(&compute, me, lesson).map_err(failed)?;
        }
        if model.training.is_some() {
            // What waits for it from now on are jobs.
            self.queue.forget(upload);
        }
        let agreed = Agreeing { engine: self, session, model, public, net, mail, lead, reached };
        on_device(&compute, me, agreed).map_err(failed)?
    }
}

/// A session whose servers have agreed on a model: what is left needs a device.
struct Agreeing<'a> {
    engine: &'a Engine,
    session: Id,
    model: &'a Model,
    public: &'a Public,
    net: Net,
    mail: &'a Mails,
    lead: &'a Lead,
    reached: &'a Reached,
}

impl OnDevice for Agreeing<'_> {
    type Out = Result<()>;

    /// Loads the model and runs jobs until nobody needs it.
    fn run<D: Device>(self, device: D) -> Result<()> {
        let Self { engine, session, model, public, net, mail, lead, reached } = self;
        let others = engine.peers.others();
        let of = |e: sordino_mpc::Error| of_session(&sordino_nn::Error::Protocol(e));
        let info = SessionInfo { session: session.0, program: public.digest() };
        let keys = establish(&net, &info, &System).map_err(of)?;
        let party = Rep3::new(device, net, keys, public.program.settings).map_err(of)?;
        let (mut steps, started) = (Steps::new(session.0), Instant::now());
        let mut load = |program| -> Result<Loaded<'_, Rep3<D>>> {
            mail.model.leave(engine.store.opener(model.shares)?);
            let loaded = Loaded::load(&party, steps.load(), program, None).map_err(|e| of_session(&e))?;
            if model.training.is_some() {
                // What its training left, which no owner has shared.
                let kept = lesson::states(engine, &party, program, model.shares)?;
                loaded.resume(&party, steps.agree(), Some(kept), 0).map_err(|e| of_session(&e))?;
            } else {
                loaded.agree(&party, steps.agree()).map_err(|e| of_session(&e))?;
            }
            Ok(loaded)
        };
        let single = load(&public.program)?;
        let beside = public.beside.as_ref().map(|b| load(&b.program)).transpose()?;
        engine.saw(None);
        tracing::info!(party = engine.config.party, session = %session, model = %model.name, seconds = started.elapsed().as_secs_f64(), "a model is loaded");
        let beside = beside.as_ref();
        let open = Open { engine, session, model, public, party: &party, single: &single, beside, mail };
        loop {
            let (turn, taken) = match lead {
                Lead::Here(_) => {
                    let (turn, taken) = open.choose(&steps);
                    *reached.jobs.borrow_mut() = taken.iter().map(|w| w.job).collect();
                    say(party_net(&party), others, &turn)?;
                    (turn, taken)
                }
                Lead::There => (hear(party_net(&party))?, vec![]),
            };
            match turn {
                // A server that stops leaves once nothing runs.
                Turn::Idle if engine.is_stopping() => return Ok(()),
                Turn::Idle => {}
                Turn::Run(jobs) => {
                    reached.jobs.borrow_mut().clone_from(&jobs);
                    open.run(&jobs, taken, &mut steps)?;
                    reached.jobs.take();
                    if engine.is_stopping() {
                        return Ok(());
                    }
                }
                Turn::Close => return Ok(()),
                Turn::Load(_) => return Err(Fault::new(Blame::PeerMisbehaved, "server 0 named a second model")),
            }
        }
    }
}

pub(crate) fn party_net<D: Device>(party: &Rep3<D>) -> &Net {
    sordino_mpc::Party::net(party)
}

/// The links to owners.
pub(crate) struct Mails {
    pub(crate) model: Mail,
    pub(crate) receiver: Mail,
    pub(crate) data: Vec<Mail>,
}

impl Mails {
    fn new() -> Self {
        let mail = |role| Mail::new(Kind::Three.end(role));
        let data = (0..MOST_OWNERS).map(|k| mail(Role::DataOwner(k))).collect();
        Self { model: mail(Role::ModelOwner), receiver: mail(Role::Receiver), data }
    }

    fn all(&self) -> impl Iterator<Item = &Mail> {
        [&self.model, &self.receiver].into_iter().chain(&self.data)
    }
}

/// A session whose model is loaded.
struct Open<'a, D: Device> {
    engine: &'a Engine,
    session: Id,
    model: &'a Model,
    public: &'a Public,
    party: &'a Rep3<D>,
    single: &'a Loaded<'a, Rep3<D>>,
    beside: Option<&'a Loaded<'a, Rep3<D>>>,
    mail: &'a Mails,
}

impl<D: Device> Open<'_, D> {
    /// What is next, as the queue has it.
    fn choose(&self, steps: &Steps) -> (Turn, Vec<Waiting>) {
        let limits = &self.engine.config.limits;
        // Followers give up on a leader that says nothing for so long.
        let beat = (self.engine.config.deadline() / 3).min(Duration::from_secs(1));
        if steps.runs() >= MOST_RUNS {
            return (Turn::Close, vec![]);
        }
        let rows = self.public.rows();
        let idle = Duration::from_secs(limits.idle_seconds);
        // A run for many costs a few runs for one.
        match self.engine.queue.next(self.model.upload, [(rows / 4).max(2), rows], beat, idle) {
            Next::Idle => (Turn::Idle, vec![]),
            Next::Run(jobs) => (Turn::Run(jobs.iter().map(|w| w.job).collect()), jobs),
            Next::Close => (Turn::Close, vec![]),
        }
    }

    /// Runs jobs, those that all agree to. An error ends the session.
    fn run(&self, jobs: &[Id], mut taken: Vec<Waiting>, steps: &mut Steps) -> Result<()> {
        let (engine, net, others) = (self.engine, party_net(self.party), self.engine.peers.others());
        if jobs.len() > self.public.rows() {
            return Err(Fault::new(Blame::PeerMisbehaved, "server 0 named more jobs than one run takes"));
        }
        let judged: Vec<(Verdict, Option<Job>)> =
            jobs.iter().map(|id| engine.judge(self.session, self.model, *id)).collect();
        let (mut verdicts, judged): (Vec<Verdict>, Vec<Option<Job>>) = judged.into_iter().unzip();
        // The program for many is its owner's: rows of different clients, or for different receivers, never meet in it.
        let whose = |job: &Option<Job>| job.as_ref().map(|j| (j.owner.clone(), j.receiver.clone()));
        let mut known = judged.iter().filter_map(whose);
        let first = known.next();
        if known.any(|w| Some(w) != first) {
            for verdict in &mut verdicts {
                verdict.digest =
                    Err(Fault::new(Blame::PeerMisbehaved, "server 0 named jobs of different clients together"));
            }
        }
        let inputs = RefCell::new(vec![]);
        let ready = |results: &[Result<Agreed>]| {
            let (made_ready, opened) = self.ready(&judged, results);
            *inputs.borrow_mut() = opened;
            made_ready
        };
        let agreed = agree(net, others, &verdicts, ready)?;
        let (mut running, mut done) = (vec![], vec![]);
        for ((id, verdict), agreed) in jobs.iter().zip(verdicts).zip(agreed) {
            match agreed {
                Ok(Agreed::Do) => running.push(*id),
                Ok(Agreed::Done) => done.push(*id),
                Err(fault) if fault.kind == Blame::Pending => {
                    if let Some(at) = taken.iter().position(|w| w.job == *id) {
                        engine.postpone(taken.swap_remove(at))?;
                    }
                }
                // The own reason says more than another server's.
                Err(fault) => engine.fail(*id, verdict.digest.err().unwrap_or(fault))?,
            }
        }
        let mut inputs = inputs.into_inner();
        inputs.retain(|(id, _)| running.contains(id));
        if !running.is_empty() {
            let opened = self.compute(&running, inputs, steps)?;
            let own = engine.keep(&opened);
            let kept = kept(net, others, vec![own])?;
            match kept.into_iter().next() {
                Some(Err(fault)) => running.iter().try_for_each(|id| engine.fail(*id, fault.clone()))?,
                _ => done.append(&mut running),
            }
            engine.saw(None);
            if engine.leads() {
                engine.queue.works(self.model.upload);
            }
        }
        if done.is_empty() { Ok(()) } else { engine.answered(&done) }
    }

    /// Begins the jobs that are to be done, and opens what their owners left.
    fn ready(&self, judged: &[Option<Job>], results: &[Result<Agreed>]) -> (Vec<Result<()>>, Vec<(Id, Opener)>) {
        let is_due = |result: &Result<Agreed>| *result == Ok(Agreed::Do);
        let todo: Vec<&Job> =
            judged.iter().zip(results).filter(|(_, r)| is_due(r)).filter_map(|(job, _)| job.as_ref()).collect();
        let begun = match self.engine.begin(self.session, &todo) {
            Ok(begun) => begun,
            Err(e) => todo.iter().map(|_| Err(e.clone())).collect(),
        };
        let mut begun = begun.into_iter();
        let mut opened = vec![];
        let ready = results.iter().map(|result| {
            if !is_due(result) {
                return Ok(());
            }
            let job = begun.next().unwrap_or_else(|| Err(Fault::unknown("the job is gone")))?;
            let shares = job.shares.ok_or_else(|| Fault::internal("the job's inputs", &"they are gone"))?;
            opened.push((job.id, self.engine.store.opener(shares)?));
            Ok(())
        });
        (ready.collect(), opened)
    }

    /// This server's shares of the answers.
    fn compute(&self, jobs: &[Id], inputs: Vec<(Id, Opener)>, steps: &mut Steps) -> Result<Vec<(Id, Made, Vec<u8>)>> {
        let engine = self.engine;
        let many = self.beside.filter(|_| jobs.len() > 1);
        let rows = if many.is_some() { self.public.rows() } else { 1 };
        for (mail, (_, opener)) in self.mail.data.iter().zip(inputs) {
            mail.leave(opener);
        }
        // What is not needed is filled up with the first job again, whose answer there is opened to nobody.
        if let (Some(first), true) = (jobs.first(), jobs.len() < rows) {
            let record = engine.store.job(*first)?.and_then(|j| j.shares);
            let shares = record.ok_or_else(|| Fault::internal("the job's inputs", &"they are gone"))?;
            for mail in &self.mail.data[jobs.len()..rows] {
                mail.leave(engine.store.opener(shares)?);
            }
        }
        let loaded = many.unwrap_or(self.single);
        let ran = Ran::of(engine, self.party, loaded, self.public.program_for(rows), steps.run(), "a run")?;
        engine.metrics.ran(&self.model.name, jobs.len(), &ran);
        let opened = self.mail.receiver.opened();
        let made = |row: usize| Made { session: self.session, run: steps.runs(), row: many.is_some().then_some(row) };
        // Outputs come by the model's own, then by rows.
        let of = |row: usize| opened.iter().skip(row).step_by(rows).flatten().copied().collect();
        Ok(jobs.iter().enumerate().map(|(row, id)| (*id, made(row), of(row))).collect())
    }
}
