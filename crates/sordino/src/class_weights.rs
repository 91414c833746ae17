//! What classes weigh in the loss of a training.

use crate::data::{Labels, Set};
use crate::{Error, Result};

/// How much each class weighs.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum ClassWeights {
    /// Each as much as every other: all samples by their classes' number and the class's own samples.
    Balanced,
    /// These, in the order of the classes.
    Given(Vec<f32>),
}

impl TryFrom<String> for ClassWeights {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        if text == "balanced" {
            return Ok(Self::Balanced);
        }
        let weights: Option<Vec<f32>> = text.split(',').map(|w| w.trim().parse().ok()).collect();
        match weights.filter(|w| w.iter().all(|w| (0.0..=1000.0).contains(w)) && w.iter().any(|w| *w > 0.0)) {
            Some(weights) => Ok(Self::Given(weights)),
            None => Err("expected balanced, or numbers from 0 to 1000, one for each class".into()),
        }
    }
}

/// Gives the classes of all sets their weights.
///
/// # Errors
/// [`Error::Usage`] for labels that are no classes, or numbers that are not one for each class.
pub fn weigh(sets: &mut [Set], asked: &ClassWeights, answers: usize) -> Result<()> {
    let mut counts = vec![0usize; answers];
    for set in &*sets {
        let Labels::Classes(classes) = &set.labels else {
            return Err(Error::Usage("--class-weights: labels are distributions or numbers, not classes".into()));
        };
        classes.iter().for_each(|c| counts[*c] += 1);
    }
    let all: usize = counts.iter().sum();
    let there = counts.iter().filter(|n| **n > 0).count();
    let weights: Vec<f32> = match asked {
        ClassWeights::Given(weights) if weights.len() != answers => {
            let n = weights.len();
            return Err(Error::Usage(format!("--class-weights has {n} numbers for {answers} classes")));
        }
        ClassWeights::Given(weights) => weights.clone(),
        ClassWeights::Balanced => {
            counts.iter().map(|&n| if n == 0 { 0.0 } else { all as f32 / (there * n) as f32 }).collect()
        }
    };
    sets.iter_mut().for_each(|set| set.weights = Some(weights.clone()));
    Ok(())
}
