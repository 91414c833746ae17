//! The program `sordino`.

mod cli;

use std::process::ExitCode;

/// Large buffers come and go with every layer; this allocator keeps their pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(cli::main())
}
