//! A session of the three servers with one model: from the first connection to the last run.

use crate::agree::{self, Turn, Verdict, agree, hear, kept, of_session, say};
use crate::engine::Engine;
use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use crate::peers::Meeting;
use crate::queue::Next;
use crate::records::{Model, State};
use crate::shares::{MOST_RUNS, Mail, Steps};
use sordino_mpc::rep3::{Rep3, SessionInfo, establish};
use sordino_mpc::{Kind, Role, System};
use sordino_net::{Endpoint, Link, Net};
use sordino_nn::exec::Loaded;
use sordino_ring::Cpu;
use std::time::{Duration, Instant};

/// The ends of a session that are not there: owners leave what they send, and fetch what they receive.
const OWNERS: [Role; 3] = [Role::ModelOwner, Role::Receiver, Role::DataOwner(0)];

/// How a session knows what is next.
enum Lead {
    /// From its own queue, for this upload.
    Here(Id),
    /// From server 0.
    There,
}

impl Engine {
    /// Leads a session with an upload, until nobody needs it.
    pub(crate) fn lead(&self, upload: Id) {
        let meeting = Id::fresh().and_then(|session| {
            self.peers.expect(session).ok_or_else(|| Fault::internal("a session", &"its id is taken"))
        });
        let result = meeting.and_then(|meeting| self.attend(meeting, &Lead::Here(upload)));
        self.queue.ended(upload, result.err().map(|e| e.why));
    }

    /// Follows the leader's session.
    pub(crate) fn follow(&self, meeting: Meeting) {
        // What failed has been told.
        let _ = self.attend(meeting, &Lead::There);
    }

    fn attend(&self, meeting: Meeting, lead: &Lead) -> Result<()> {
        let session = meeting.session();
        self.metrics.session();
        // A fault of the program ends this session alone.
        let run = std::panic::AssertUnwindSafe(|| self.session(meeting, lead));
        let result = std::panic::catch_unwind(run).unwrap_or_else(|_| {
            let fault = Fault::internal("the session", &"it stopped unexpectedly");
            for job in self.store.jobs()?.iter().filter(|j| j.state == State::Running) {
                self.broken_off(job.id, &fault)?;
            }
            Err(fault)
        });
        self.peers.forget(session);
        if let Err(e) = &result {
            self.saw(Some(e));
            self.metrics.session_failed(e.kind);
            tracing::warn!(party = self.config.party, session = %session, blame = e.kind.name(), "a session failed: {e}");
        }
        result
    }

    fn session(&self, meeting: Meeting, lead: &Lead) -> Result<()> {
        let session = meeting.session();
        let others = self.peers.others();
        let mut links = self.peers.meet(meeting)?;
        let mail = OWNERS.map(|role| Mail::new(Kind::Three.end(role)));
        links.extend(mail.iter().map(|m| (m.end(), Box::new(m.clone()) as Box<dyn Link>)));
        let net = Net::new(Endpoint(self.config.party as u8), links);
        let upload = match lead {
            Lead::Here(upload) => {
                say(&net, others, Turn::Load(*upload))?;
                *upload
            }
            Lead::There => match hear(&net)? {
                Turn::Load(upload) => upload,
                _ => return Err(Fault::new(Blame::PeerMisbehaved, "server 0 began a session without a model")),
            },
        };
        let found = self.store.models()?.into_iter().find(|m| m.upload == upload);
        let found = found.ok_or_else(|| Fault::unknown("the model is not here"));
        let verdict = Verdict {
            digest: found.as_ref().map(|m| agree::of_model(session, m)).map_err(Clone::clone),
            left: u64::MAX,
            components: found.as_ref().map(|m| m.components.clone()).unwrap_or_default(),
        };
        agree(&net, others, &verdict)??;
        let model = found?;
        let public = self.public(&model)?;
        let hash = public.program.hash();
        let of = |e: sordino_mpc::Error| of_session(&sordino_nn::Error::Protocol(e));
        let info = SessionInfo { session: session.0, program: hash };
        let keys = establish(&net, &info, &System).map_err(of)?;
        let party = Rep3::new(Cpu::new(self.config.workers()), net, keys, public.program.settings).map_err(of)?;
        let (mut steps, started) = (Steps::new(session.0), Instant::now());
        mail[0].leave(self.store.opener(model.shares)?);
        let loaded = Loaded::load(&party, steps.load(), &public.program, None).map_err(|e| of_session(&e))?;
        loaded.agree(&party, steps.agree()).map_err(|e| of_session(&e))?;
        self.saw(None);
        tracing::info!(party = self.config.party, session = %session, model = %model.name, seconds = started.elapsed().as_secs_f64(), "a model is loaded");
        let open = Open { engine: self, session, model: &model, party: &party, loaded: &loaded, mail: &mail };
        loop {
            let turn = match lead {
                Lead::Here(_) => {
                    let turn = open.choose(&steps);
                    say(party_net(&party), others, turn)?;
                    turn
                }
                Lead::There => hear(party_net(&party))?,
            };
            match turn {
                // A server that stops leaves once nothing runs.
                Turn::Idle if self.is_stopping() => return Ok(()),
                Turn::Idle => {}
                Turn::Run(job) => open.run(job, &mut steps)?,
                Turn::Close => return Ok(()),
                Turn::Load(_) => return Err(Fault::new(Blame::PeerMisbehaved, "server 0 named a second model")),
            }
        }
    }
}

fn party_net(party: &Rep3<Cpu>) -> &Net {
    sordino_mpc::Party::net(party)
}

/// A session whose model is loaded.
struct Open<'a> {
    engine: &'a Engine,
    session: Id,
    model: &'a Model,
    party: &'a Rep3<Cpu>,
    loaded: &'a Loaded<'a, Rep3<Cpu>>,
    mail: &'a [Mail; 3],
}

impl Open<'_> {
    /// What is next, as the queue has it.
    fn choose(&self, steps: &Steps) -> Turn {
        let limits = &self.engine.config.limits;
        // Followers give up on a leader that says nothing for so long.
        let beat = (self.engine.config.deadline() / 3).min(Duration::from_secs(5));
        if steps.runs() >= MOST_RUNS {
            return Turn::Close;
        }
        match self.engine.queue.next(self.model.upload, beat, Duration::from_secs(limits.idle_seconds)) {
            Next::Idle => Turn::Idle,
            Next::Run(job) => Turn::Run(job),
            Next::Close => Turn::Close,
        }
    }

    /// Runs a job, if all agree to it. An error ends the session.
    fn run(&self, job: Id, steps: &mut Steps) -> Result<()> {
        let (engine, net, others) = (self.engine, party_net(self.party), self.engine.peers.others());
        let patience = (engine.config.deadline() / 3).min(Duration::from_millis(500));
        let verdict = engine.judge(self.session, self.model, job, patience);
        let broken = |e: Fault| {
            let kept = engine.broken_off(job, &e);
            kept.err().map_or(e, |other| other)
        };
        match agree(net, others, &verdict).map_err(broken)? {
            Ok(_) => {}
            Err(fault) => {
                // The own reason says more than another server's.
                let fault = verdict.digest.err().unwrap_or(fault);
                // An upload may be under way to one of us while the others have it.
                if fault.kind == Blame::Unknown && engine.is_young(job)? {
                    if engine.leads() {
                        engine.queue.push(job, self.model.upload);
                    }
                    return Ok(());
                }
                return engine.fail(job, fault);
            }
        }
        let opened = self.compute(job, steps).map_err(broken)?;
        let own = engine.keep(job, self.session, steps.runs(), &opened);
        match kept(net, others, own).map_err(broken)? {
            Ok(()) => {
                engine.saw(None);
                if engine.leads() {
                    engine.queue.works(self.model.upload);
                }
                engine.answered(job)
            }
            Err(fault) => engine.fail(job, fault),
        }
    }

    /// This server's share of the answer.
    fn compute(&self, job: Id, steps: &mut Steps) -> Result<Vec<u8>> {
        let (engine, net) = (self.engine, party_net(self.party));
        let record = engine.begin(job)?;
        let inputs = record.shares.ok_or_else(|| Fault::internal("the job's inputs", &"they are gone"))?;
        self.mail[2].leave(engine.store.opener(inputs)?);
        net.reset_meter();
        let started = Instant::now();
        self.loaded.run(self.party, steps.run(), None, |_| ()).map_err(|e| of_session(&e))?;
        let meter = net.meter();
        engine.metrics.ran(&self.model.name, started.elapsed(), meter.payload(), meter.rounds);
        Ok(self.mail[1].opened())
    }
}
