//! Writes `kernels/ptx`, or compares it with what NVIDIA's run-time compiler (NVRTC 12.2) makes of the kernels now.
//!
//!     python3 -m pip install --no-deps --target target/nvrtc nvidia-cuda-nvrtc-cu12==12.2.140
//!     LD_LIBRARY_PATH=target/nvrtc/nvidia/cuda_nvrtc/lib cargo run -p sordino-gpu --example ptx [-- --check]
//!
//! `--check` also compiles for sm_80 and sm_90a, where the compiler goes on to machine code and so checks more.

use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};
use sordino_gpu::{SOURCES, Source};
use std::path::Path;

fn compile(source: &Source, arch: &str) -> Result<Ptx, String> {
    let options = vec![format!("-arch={arch}")];
    compile_ptx_with_opts(source.full(), CompileOptions { options, ..Default::default() })
        .map_err(|e| format!("{} for {arch}: {e:?}", source.file))
}

fn main() -> Result<(), String> {
    let check = std::env::args().any(|a| a == "--check");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/ptx");
    for source in &SOURCES {
        let file = folder.join(source.ptx_file());
        let ptx = compile(source, "compute_70")?.to_src();
        if !check {
            std::fs::write(&file, ptx).map_err(|e| format!("{}: {e}", file.display()))?;
            continue;
        }
        let kept = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        if kept != ptx {
            return Err(format!(
                "{} is not what {} compiles to: run this without --check",
                file.display(),
                source.file
            ));
        }
        for arch in ["sm_80", "sm_90a"] {
            compile(source, arch)?;
        }
    }
    println!("{} programs {}", SOURCES.len(), if check { "are as they compile" } else { "written" });
    Ok(())
}
