//! What two parties can do before there is an input: the strings of all oblivious transfers of a run.

use crate::price::planned;
use sordino_mpc::two::{Declared, Draw};
use sordino_mpc::{Cost, Plan, Step};
use sordino_nn::program::Program;

/// What a run of a program draws, which follows from the program alone.
pub struct Ahead {
    draws: Vec<Draw>,
}

impl Ahead {
    /// Of a program for two parties.
    ///
    /// # Errors
    /// When the program does what they cannot.
    pub fn of(program: &Program) -> sordino_nn::Result<Self> {
        let plan = &Plan::<Declared>::of(program.settings);
        planned(plan, program)?;
        Ok(Self { draws: plan.costs().run().to_vec() })
    }

    /// What drawing it ahead sends, and what a run of the same program then sends.
    ///
    /// # Errors
    /// As for [`Ahead::of`].
    pub fn costs(&self, program: &Program) -> sordino_nn::Result<[Cost; 2]> {
        let plan = &Plan::<Declared>::of(program.settings);
        let loaded = planned(plan, program)?;
        let before = plan.costs().prepare(&self.draws);
        plan.restart();
        loaded.run(plan, Step::root([0; 16]), None, |_| ())?;
        Ok([before, plan.cost()])
    }

    /// What is drawn, in order.
    #[must_use]
    pub fn draws(&self) -> &[Draw] {
        &self.draws
    }

    /// Bytes that the strings of one run take at the model's owner, and at the client.
    #[must_use]
    pub fn bytes(&self) -> [u64; 2] {
        [false, true].map(|client| self.draws.iter().map(|draw| draw.bytes(client)).sum())
    }
}
