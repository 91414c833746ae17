//! What a training tells.

use super::super::human_bytes;
use super::progress::{WINDOW, average};
use crate::plot::{Axes, Series, lines};
use serde::Serialize;
use sordino::Result;
use sordino::prepared::Prepared;
use sordino::report::Bytes;
use sordino::training::{Floats, Scores};
use sordino_nn::Tensor;
use sordino_nn::training::Kind;
use std::path::PathBuf;

/// The object that `train --json` prints.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) iterations: usize,
    pub(crate) batch: usize,
    pub(crate) seconds: f64,
    pub(crate) seconds_per_iteration: f64,
    pub(crate) bytes: Bytes,
    pub(crate) rounds_per_iteration: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) losses: Vec<f32>,
    /// Which iterations they are of, counted from one: a resumed training knows the earlier ones too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) loss_iterations: Vec<usize>,
    #[serde(flatten)]
    pub(crate) validation: Judged,
    /// Files that were written at the end.
    #[serde(skip)]
    pub(crate) written: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) check: Option<Checked>,
}

/// Against the same training in floats.
#[derive(Serialize)]
pub(crate) struct Checked {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    losses: Vec<f32>,
    /// Largest difference of the moving averages of the loss, relative to the float one, while that is above a
    /// twentieth of the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) largest_relative_loss_difference: Option<f64>,
    /// Largest difference of a weight.
    pub(crate) max_abs_weight_difference: f64,
    #[serde(flatten)]
    pub(crate) validation: Judged,
}

/// How well a trained model answers the set it is judged by.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Judged {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) validation_accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) validation_squared_error: Option<f64>,
}

impl From<Scores> for Judged {
    fn from(scores: Scores) -> Self {
        Self { validation_accuracy: scores.accuracy, validation_squared_error: scores.squared_error }
    }
}

impl Judged {
    /// What there is, in words.
    fn shown(&self) -> Option<String> {
        let accuracy = self.validation_accuracy.map(|a| format!("validation accuracy {:.2} %", 100.0 * a));
        accuracy.or(self.validation_squared_error.map(|e| format!("half squared error of the validation {e:.5}")))
    }
}

impl Checked {
    /// Trains in floats from the same start, and compares losses and the model's states. Returns the float states too.
    pub(super) fn new(p: &Prepared, states: &[Tensor], report: &Report) -> Result<(Self, Vec<Tensor>)> {
        let mut floats = Floats::new(&p.step);
        let mut own = vec![];
        for i in 0..p.material.order.len() {
            own.extend(floats.run(p.material.inputs(i), None)?);
        }
        let own: Vec<f32> = report.loss_iterations.iter().filter_map(|i| own.get(i - 1)).copied().collect();
        let floor = own.first().map_or(0.0, |l| f64::from(*l) / 20.0);
        let pairs = average(&report.losses).into_iter().zip(average(&own)).filter(|p| p.1 > floor);
        let all = states.iter().zip(&floats.states).zip(&p.step.states);
        let values = all.filter(|(_, s)| s.kind == Kind::Value).map(|(pair, _)| pair);
        let difference = values.flat_map(|(a, b)| a.data.iter().zip(&b.data)).map(|(a, b)| f64::from((a - b).abs()));
        let checked = Self {
            largest_relative_loss_difference: pairs.map(|(a, b)| (a - b).abs() / b).reduce(f64::max),
            max_abs_weight_difference: difference.fold(0.0, f64::max),
            validation: Judged::default(),
            losses: own,
        };
        Ok((checked, floats.states))
    }
}

impl Report {
    /// A plot of the losses, the float ones beside them.
    pub(super) fn plot(&self) -> Result<String> {
        let curve = |name: &str, losses: &[f32]| {
            let at = self.loss_iterations.iter().map(|i| *i as f64);
            let points = at.zip(average(losses)).collect();
            Series { name: name.into(), points }
        };
        let mut series = vec![curve("private", &self.losses)];
        series.extend(self.check.as_ref().map(|c| curve("floats", &c.losses)));
        let axes = Axes { title: "Loss, moving average of 20", x: "iteration", y: "loss", log_x: false, log_y: false };
        lines(&axes, &series)
    }

    /// Ten points of both curves, or fewer.
    fn curves(&self, floats: &[f32]) -> String {
        const POINTS: usize = 10;
        let (private, floats) = (average(&self.losses), average(floats));
        let n = private.len().min(floats.len());
        if n == 0 {
            return String::new();
        }
        let mut text = format!("{:>10} {:>10} {:>10}   loss, mean of {WINDOW}\n", "iteration", "private", "floats");
        for i in (1..=POINTS.min(n)).map(|k| k * n / POINTS.min(n) - 1) {
            text += &format!("{:>10} {:>10.4} {:>10.4}\n", self.loss_iterations[i], private[i], floats[i]);
        }
        text
    }

    pub(super) fn shown(&self) -> String {
        let mut text = format!(
            "{} iterations of {} samples: {:.3} s each, {} sent by all parties each ({} on the wire), {} rounds each\n",
            self.iterations,
            self.batch,
            self.seconds_per_iteration,
            human_bytes(self.bytes.payload / self.iterations.max(1) as u64),
            human_bytes(self.bytes.wire / self.iterations.max(1) as u64),
            self.rounds_per_iteration
        );
        if let Some(loss) = average(&self.losses).last() {
            text += &format!("loss {loss:.4} (mean of the last {})\n", WINDOW.min(self.losses.len()));
        }
        if let Some(judged) = self.validation.shown() {
            text += &format!("{judged}\n");
        }
        if let Some(c) = &self.check {
            text += &format!(
                "floats, same start and order: largest difference of a weight {:.2e}",
                c.max_abs_weight_difference
            );
            if let Some(d) = c.largest_relative_loss_difference {
                text += &format!(", of the averaged loss {:.3} %", 100.0 * d);
            }
            if let Some(judged) = c.validation.shown() {
                text += &format!(", {judged}");
            }
            text.push('\n');
            text += &self.curves(&c.losses);
        }
        if !self.written.is_empty() {
            let names: Vec<String> = self.written.iter().map(|p| p.display().to_string()).collect();
            text += &format!("wrote {}\n", names.join(", "));
        }
        text
    }
}
