//! What a run of a program costs, as the program says.

use crate::Result;
use sordino_mpc::{Costs, Plan, Step};
use sordino_nn::exec::Loaded;
use sordino_nn::program::Program;

/// What a run costs.
#[derive(Clone, Copy, Debug)]
pub struct Price {
    /// Bytes of the first run, all ways.
    pub bytes: u64,
    /// Rounds.
    pub rounds: u32,
    /// Bound on the memory of a computing end, what is loaded included, in bytes.
    pub memory: u64,
}

impl Price {
    /// Of a program, as a protocol declares it.
    ///
    /// # Errors
    /// When the program does what that protocol cannot.
    pub fn of<C: Costs>(program: &Program) -> Result<Self> {
        let plan = &Plan::<C>::of(program.settings);
        planned(plan, program)?.run(plan, Step::root([0; 16]), None, |_| ())?;
        let cost = plan.cost();
        Ok(Self { bytes: cost.total(), rounds: cost.rounds, memory: plan.peak_bytes() })
    }
}

/// A program as a plan loads it, ready to run, rehearsed if that changes what runs send; what is counted from here on are runs.
///
/// # Errors
/// When the program does what the protocol cannot.
pub fn planned<'a, C: Costs>(plan: &Plan<C>, program: &'a Program) -> sordino_nn::Result<Loaded<'a, Plan<C>>> {
    let mut at = Step::root([0; 16]);
    let loaded = Loaded::load(plan, at.child("load"), program, None)?;
    loaded.agree(plan, at.child("agree"))?;
    if C::REHEARSES {
        loaded.run(plan, at.child("rehearsal"), None, |_| ())?;
        plan.costs().rehearsed();
    }
    plan.restart();
    Ok(loaded)
}
