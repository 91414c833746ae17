//! A computing end's states and its disk.

use crate::checkpoint::{Checkpoints, Mark};
use crate::session::Job;
use sordino_mpc::Party;
use sordino_nn::exec::Loaded;
use sordino_nn::{Error, Result};

pub(crate) struct Keep<'a, P: Party> {
    job: Job<'a>,
    party: &'a P,
    checkpoints: Option<&'a Checkpoints>,
}

impl<'a, P: Party> Keep<'a, P> {
    pub(crate) fn new(job: Job<'a>, party: &'a P, checkpoints: Option<&'a Checkpoints>) -> Self {
        Self { job, party, checkpoints }
    }

    fn number(&self) -> u8 {
        self.party.net().me().0
    }

    /// The kept shares of the states, if the session starts from them.
    pub(crate) fn read(&self) -> Result<Option<Vec<P::Arith>>> {
        let program = self.job.program;
        let Some(checkpoints) = self.checkpoints.filter(|_| self.job.kept) else { return Ok(None) };
        if checkpoints.every.is_none() && self.job.opened > 0 {
            return Err(Error::State("a model that is kept for answers is not opened".into()));
        }
        let read = checkpoints.read(self.number(), program.hash());
        let shares = read.map_err(|e| Error::State(e.to_string()))?;
        Ok(Some(self.party.import(&shares, &program.state_shapes()).map_err(Error::Protocol)?))
    }

    /// Keeps the states after so many runs, if it is time.
    pub(crate) fn write(&self, loaded: &Loaded<'_, P>, done: usize) -> Result<()> {
        let due = |c: &&Checkpoints| c.every.is_some_and(|every| done.is_multiple_of(every) || done == self.job.runs);
        let Some(checkpoints) = self.checkpoints.filter(due) else { return Ok(()) };
        let shares = self.party.export(&loaded.states()).map_err(Error::Protocol)?;
        let mark = Mark { iteration: done, session: self.job.session };
        checkpoints.write(self.number(), mark, shares).map_err(|e| Error::State(e.to_string()))
    }
}
