//! What two parties can do before there is an input: the strings of all oblivious transfers of a run.

use sordino_mpc::two::{Declared, Draw};
use sordino_mpc::{Cost, Plan, Step};
use sordino_nn::exec::Loaded;
use sordino_nn::program::Program;

/// What a run of a program draws, which follows from the program alone.
pub struct Ahead {
    pub(crate) draws: Vec<Draw>,
    /// What drawing it ahead sends, and what a run then sends.
    pub costs: [Cost; 2],
}

impl Ahead {
    /// Of a program for two parties.
    ///
    /// # Errors
    /// When the program does what they cannot.
    pub fn of(program: &Program) -> sordino_nn::Result<Self> {
        let plan = &Plan::<Declared>::of(program.settings);
        let mut at = Step::root([0; 16]);
        let loaded = Loaded::load(plan, at.child("load"), program, None)?;
        loaded.agree(plan, at.child("agree"))?;
        plan.costs().record();
        loaded.run(plan, at.child("run"), None, |_| ())?;
        let draws = plan.costs().recorded();
        // Another time from the beginning, because transfers were left over.
        let plan = &Plan::<Declared>::of(program.settings);
        let loaded = Loaded::load(plan, at.child("load"), program, None)?;
        loaded.agree(plan, at.child("agree"))?;
        plan.restart();
        let before = plan.costs().prepare(&draws);
        plan.restart();
        loaded.run(plan, at.child("run"), None, |_| ())?;
        Ok(Self { draws, costs: [before, plan.cost()] })
    }

    /// What is drawn, in order.
    #[must_use]
    pub fn draws(&self) -> Vec<Draw> {
        self.draws.clone()
    }

    /// Bytes that the strings of one run take at the model's owner, and at the client.
    #[must_use]
    pub fn bytes(&self) -> [u64; 2] {
        [false, true].map(|client| self.draws.iter().map(|draw| draw.bytes(client)).sum())
    }
}
