//! A program as a job of every end.

use sordino_mpc::{Protocol, Step};
use sordino_nn::exec::Loaded;
use sordino_nn::program::{Program, Secrets};
use sordino_testkit::Job;

pub(crate) struct Run<'a> {
    pub(crate) program: &'a Program,
    pub(crate) secrets: &'a Secrets,
    pub(crate) inputs: Vec<Vec<i64>>,
}

impl Job for Run<'_> {
    type Out = Vec<Option<Vec<i64>>>;
    fn run<P: Protocol>(&self, p: &P, mut at: Step) -> sordino_mpc::Result<Self::Out> {
        let mpc = |e: sordino_nn::Error| match e {
            sordino_nn::Error::Protocol(e) => e,
            e => sordino_mpc::Error::Usage(e.to_string()),
        };
        let loaded = Loaded::load(p, at.child("load"), self.program, Some(self.secrets)).map_err(mpc)?;
        loaded.run(p, at.child("run"), Some(&self.inputs), |_| ()).map_err(mpc)
    }
}
