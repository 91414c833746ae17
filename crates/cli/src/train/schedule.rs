//! How long and how fast a training goes, from the command line or a file.

use super::super::positive;
use clap::{Args, ValueEnum};
use serde::Deserialize;
use sordino::class_weights::ClassWeights;
use sordino::training::{Decline, Shape};
use sordino::{Error, Result};
use sordino_nn::training::{Loss, Optimiser, Rates, Rule};
use std::path::{Path, PathBuf};

/// What is minimised.
#[derive(Clone, Copy, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LossArg {
    /// Cross-entropy of the softmax of the answer.
    CrossEntropy,
    /// Half the squared distance from the label.
    SquaredError,
}

/// What becomes of a gradient.
#[derive(Clone, Copy, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum OptimiserArg {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam; every weight costs about 660 bytes more per iteration.
    Adam,
}

/// One data owner's files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OwnerFiles {
    /// As --data; one file or folder may stand by itself.
    #[serde(deserialize_with = "one_or_many")]
    pub(super) data: Vec<PathBuf>,
    /// As --labels.
    pub(super) labels: Option<PathBuf>,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a file or a list of files")]
    enum Files {
        One(PathBuf),
        Many(Vec<PathBuf>),
    }
    Ok(match Files::deserialize(from)? {
        Files::One(file) => vec![file],
        Files::Many(files) => files,
    })
}

/// Where and what is wrong in a file, without the names of Rust's types.
fn explained(text: &str, error: &toml::de::Error) -> String {
    let plain = error.message().replace("invalid type: ", "it has ").replace("invalid value: ", "it has ");
    let plain = ["f32", "f64"].iter().fold(plain, |s, t| s.replace(t, "a number"));
    let plain = ["usize", "u64"].iter().fold(plain, |s, t| s.replace(t, "a whole number of at least zero"));
    match error.span() {
        Some(span) => format!("line {}: {plain}", text[..span.start.min(text.len())].lines().count().max(1)),
        None => plain,
    }
}

fn weights(text: &str) -> std::result::Result<ClassWeights, String> {
    text.to_string().try_into()
}

/// Options that may also stand in the file, one by one.
macro_rules! schedule {
    ($($(#[$attribute:meta])* $name:ident: $type:ty),* $(,)?) => {
        /// How long and how fast.
        #[derive(Args, Clone, Debug, Default, Deserialize)]
        #[command(next_help_heading = "Schedule")]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct Schedule {
            $($(#[$attribute])* pub(super) $name: Option<$type>,)*
            /// In the file only: further data owners.
            #[arg(skip)]
            pub(super) owner: Vec<OwnerFiles>,
        }

        impl Schedule {
            /// What was said first counts.
            fn or(self, file: Self) -> Self {
                Self { $($name: self.$name.or(file.$name),)* owner: file.owner }
            }
        }
    };
}

schedule! {
    /// Passes over the data [default: 1].
    #[arg(long, allow_negative_numbers = true, value_parser = positive)]
    epochs: usize,
    /// Stop after so many iterations.
    #[arg(long, allow_negative_numbers = true, value_parser = positive)]
    iterations: usize,
    /// Samples of an iteration [default: 128].
    #[arg(long, allow_negative_numbers = true, value_parser = positive)]
    batch: usize,
    /// What becomes of a gradient [default: sgd].
    #[arg(long, value_enum)]
    optimiser: OptimiserArg,
    /// Learning rate [default: 0.01; for adam 0.001].
    #[arg(long, allow_negative_numbers = true)]
    rate: f32,
    /// How the learning rate declines [default: constant].
    #[arg(long, value_enum)]
    schedule: Shape,
    /// Iterations over which the learning rate first rises [default: 0].
    #[arg(long, allow_negative_numbers = true)]
    warmup: usize,
    /// Iterations of a step of the learning rate, for --schedule step [default: a third of all].
    #[arg(long, allow_negative_numbers = true, value_parser = positive)]
    step_every: usize,
    /// What a step multiplies the learning rate by [default: 0.1].
    #[arg(long, allow_negative_numbers = true)]
    step_factor: f32,
    /// Momentum, for sgd [default: 0.9].
    #[arg(long, allow_negative_numbers = true)]
    momentum: f32,
    /// Decay of Adam's average of gradients [default: 0.9].
    #[arg(long, allow_negative_numbers = true)]
    beta1: f32,
    /// Decay of Adam's average of squared gradients [default: 0.999].
    #[arg(long, allow_negative_numbers = true)]
    beta2: f32,
    /// What keeps Adam's steps finite; gradients much below it hardly move a weight [default: 0.0001].
    #[arg(long, allow_negative_numbers = true)]
    epsilon: f32,
    /// Weight decay [default: 0].
    #[arg(long, allow_negative_numbers = true)]
    decay: f32,
    /// What is minimised [default: cross-entropy].
    #[arg(long, value_enum)]
    loss: LossArg,
    /// What each class weighs in the loss: balanced (all as much as each other), or a number for each, in the order of the classes
    /// [default: every sample the same].
    #[arg(long, value_name = "balanced|W,W,...", allow_hyphen_values = true, value_parser = weights)]
    class_weights: ClassWeights,
    /// Seed of the public order, of the masks of dropouts, and of the weights of zoo:NAME [default: 0].
    #[arg(long, allow_negative_numbers = true)]
    seed: u64,
}

impl Schedule {
    /// The options, and what a file says where they say nothing.
    pub(super) fn with_file(&self, path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(self.clone()) };
        let text = std::fs::read_to_string(path).map_err(Error::at(path))?;
        let mut file: Self =
            toml::from_str(&text).map_err(|e| Error::File { path: path.into(), why: explained(&text, &e) })?;
        // Where the command line chooses another optimiser or schedule, what the file says of its own does not apply.
        match self.optimiser {
            Some(OptimiserArg::Adam) => file.momentum = None,
            Some(OptimiserArg::Sgd) => (file.beta1, file.beta2, file.epsilon) = (None, None, None),
            None => {}
        }
        if self.schedule.is_some_and(|s| s != Shape::Step) {
            (file.step_every, file.step_factor) = (None, None);
        }
        let merged = self.clone().or(file);
        let counts = [
            ("epochs", merged.epochs),
            ("iterations", merged.iterations),
            ("batch", merged.batch),
            ("step_every", merged.step_every),
        ];
        match counts.iter().find(|(_, n)| *n == Some(0)) {
            Some((name, _)) => Err(Error::File { path: path.into(), why: format!("{name} must be at least 1") }),
            None => Ok(merged),
        }
    }

    /// True when classes are trained, and not numbers.
    pub(super) fn trains_classes(&self) -> bool {
        !matches!(self.loss, Some(LossArg::SquaredError))
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed.unwrap_or(0)
    }

    /// Options that would be without effect beside others.
    fn fits(&self) -> Result<()> {
        let adam = matches!(self.optimiser, Some(OptimiserArg::Adam));
        let steps = matches!(self.schedule, Some(Shape::Step));
        let misfits = [
            ("momentum", adam && self.momentum.is_some(), "sgd"),
            ("beta1", !adam && self.beta1.is_some(), "adam"),
            ("beta2", !adam && self.beta2.is_some(), "adam"),
            ("epsilon", !adam && self.epsilon.is_some(), "adam"),
            ("step-every", !steps && self.step_every.is_some(), "schedule step"),
            ("step-factor", !steps && self.step_factor.is_some(), "schedule step"),
            ("class-weights", !self.trains_classes() && self.class_weights.is_some(), "loss cross-entropy"),
        ];
        match misfits.iter().find(|m| m.1) {
            Some((name, _, of)) => Err(Error::Usage(format!("{name} belongs to {of}; leave it out"))),
            None => Ok(()),
        }
    }

    /// The rule for so many iterations.
    pub(super) fn rule(&self, iterations: usize, tell_loss: bool) -> Result<Rule> {
        self.fits()?;
        let within = |name: &str, value: f32, fits: bool, range: &str| {
            if fits { Ok(value) } else { Err(Error::Usage(format!("{name} {value} must be {range}"))) }
        };
        let share = |name: &str, value: Option<f32>, default: f32| {
            let v = value.unwrap_or(default);
            within(name, v, (0.0..1.0).contains(&v), "at least 0 and below 1")
        };
        let (optimiser, rate) = match self.optimiser {
            Some(OptimiserArg::Adam) => {
                let epsilon = self.epsilon.unwrap_or(1e-4);
                let optimiser = Optimiser::Adam {
                    beta1: share("beta1", self.beta1, 0.9)?,
                    beta2: share("beta2", self.beta2, 0.999)?,
                    epsilon: within("epsilon", epsilon, (1e-6..1.0).contains(&epsilon), "from 0.000001 to 1")?,
                };
                (optimiser, 0.001)
            }
            _ => (Optimiser::Sgd { momentum: share("momentum", self.momentum, 0.9)? }, 0.01),
        };
        if let Some(warmup) = self.warmup.filter(|w| *w > iterations) {
            return Err(Error::Usage(format!("warmup {warmup} must be at most the {iterations} iterations")));
        }
        let rate = self.rate.unwrap_or(rate);
        let factor = self.step_factor.unwrap_or(0.1);
        let decline = Decline {
            shape: self.schedule.unwrap_or_default(),
            rate: within("rate", rate, rate > 0.0 && rate <= 16.0, "above 0 and at most 16")?,
            warmup: self.warmup.unwrap_or(0),
            every: self.step_every.unwrap_or_else(|| iterations.div_ceil(3)),
            factor: within("step-factor", factor, factor > 0.0 && factor <= 1.0, "above 0 and at most 1")?,
        };
        Ok(Rule {
            weighted: self.class_weights.is_some(),
            loss: match self.loss {
                Some(LossArg::SquaredError) => Loss::SquaredError,
                _ => Loss::CrossEntropy,
            },
            optimiser,
            rates: Rates(decline.rates(iterations)),
            decay: share("decay", self.decay, 0.0)?,
            tell_loss,
            seed: self.seed(),
        })
    }
}
