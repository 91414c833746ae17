//! `sordino zoo`.

use super::{print, zoo_network};
use clap::{Args, Subcommand, ValueEnum};
use sordino::Result;
use sordino::model::write_whole;
use sordino_nn::{onnx, zoo};
use std::path::PathBuf;

/// Arguments of `zoo`.
#[derive(Args)]
pub(crate) struct Zoo {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the networks with their inputs.
    List,
    /// Write a network as an ONNX file with weights drawn from a seed.
    Export {
        /// Its name, from `sordino zoo list`.
        name: String,
        /// Seed of the weights.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Pooling where the original network takes maxima.
        #[arg(long, value_enum, default_value = "avg")]
        pool: Pool,
        /// Where to write.
        #[arg(long, short)]
        output: PathBuf,
    },
}

/// Pooling of a network of the zoo.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Pool {
    /// Averages, as the three-server papers do.
    Avg,
    /// Maxima, as the original networks do.
    Max,
}

impl From<Pool> for zoo::Pool {
    fn from(pool: Pool) -> Self {
        match pool {
            Pool::Avg => Self::Average,
            Pool::Max => Self::Max,
        }
    }
}

impl Zoo {
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::List => {
                let lines: Vec<String> =
                    zoo::NETWORKS.iter().map(|n| format!("{:<22} {:?}  {}\n", n.name, n.input, n.about)).collect();
                print(&lines.concat())
            }
            Command::Export { name, seed, pool, output } => {
                let graph = zoo_network(&name, seed, pool.into())?;
                let parameters = graph.parameters();
                write_whole(&output, &onnx::write(&graph))?;
                print(&format!("{}: {name}, {parameters} weights\n", output.display()))
            }
        }
    }
}
