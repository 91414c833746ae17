//! CUDA: NVIDIA's driver, looked up when a device is opened. Kernels are the PTX that the binary carries.

use crate::driver::{Arg, Driver, Error, Facts, Grid, Result};
use crate::sources::SOURCES;
use cudarc::driver::{CudaContext, DriverError, result, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

/// An NVIDIA card, with a stream of its own.
///
/// Not yet run on a card: it compiles, and its kernels give the right bytes through [`crate::OpenCl`].
pub struct Cuda {
    facts: Facts,
    // Dropped in this order.
    kernels: HashMap<String, sys::CUfunction>,
    _modules: Modules,
    up: Mutex<Staging>,
    down: Mutex<Staging>,
    stream: Arc<Stream>,
}

/// A stream of a context; destroyed before it.
struct Stream {
    at: sys::CUstream,
    context: Arc<CudaContext>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: created by `Cuda::new`, destroyed once. The driver finishes what was queued first.
            let _ = unsafe { result::stream::destroy(self.at) };
        }
    }
}

// SAFETY: handles of the driver may be used from any thread whose current context is theirs, and the driver locks its streams.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}
// SAFETY: functions and modules are handles too; modules are unloaded when nobody has their functions any more.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

/// What was loaded, and goes with whoever loaded it: all sessions of a process share a context, which may live as long as the process.
struct Modules(Vec<sys::CUmodule>, Arc<Stream>);

impl Drop for Modules {
    fn drop(&mut self) {
        if self.1.context.bind_to_thread().is_err() {
            return;
        }
        // SAFETY: loaded by `Cuda::new`, unloaded once, when none of their kernels runs any more.
        unsafe {
            let _ = result::stream::synchronize(self.1.at);
            for module in &self.0 {
                let _ = sys::cuModuleUnload(*module);
            }
        }
    }
}

/// A block of the card's memory.
pub struct Memory {
    at: sys::CUdeviceptr,
    stream: Arc<Stream>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.stream.context.bind_to_thread().is_ok() {
            // SAFETY: allocated by `allocate`, freed once, when all that was queued is over. A failure here leaks.
            let _ = unsafe { result::free_sync(self.at) };
        }
    }
}

/// Bytes of a piece: the host copies one while the bus carries another.
const PIECE: usize = 4 << 20;

/// Two pieces of pinned host memory, and for each the event after which it may be used again.
struct Staging([(*mut u8, sys::CUevent); 2], Arc<Stream>);

// SAFETY: used under a lock.
unsafe impl Send for Staging {}

impl Staging {
    fn new(stream: &Arc<Stream>) -> Result<Self> {
        let slot = || {
            // SAFETY: ordinary pinned memory, freed on drop.
            let at = unsafe { result::malloc_host(PIECE, 0) }.map_err(call)?;
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(call)?;
            Ok((at.cast(), event))
        };
        Ok(Self([slot()?, slot()?], Arc::clone(stream)))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let bound = self.1.context.bind_to_thread().is_ok();
        for (at, event) in self.0 {
            // SAFETY: no copy is under way: reads wait for theirs, and this waits for the last writes. What it held is overwritten,
            // whether or not the card still answers.
            unsafe {
                if bound {
                    let _ = result::event::synchronize(event);
                }
                at.write_bytes(0, PIECE);
                if !bound {
                    continue;
                }
                let _ = result::event::destroy(event);
                let _ = result::free_host(at.cast());
            }
        }
    }
}

/// By number and in the driver's own words: newer drivers have errors that bindings do not name.
fn call(error: DriverError) -> Error {
    let words = error.error_string().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    Error::Call(format!("CUDA error {}: {words}", error.0 as u32))
}

/// CUDA 12.2, whose compiler made the PTX.
const LEAST: i32 = 12020;

fn present() -> Result<usize> {
    let missing = Error::Library { library: "NVIDIA's driver (libcuda.so.1)", install: "the driver of the card" };
    // SAFETY: only looks the library up.
    if !unsafe { sys::is_culib_present() } {
        return Err(missing);
    }
    let mut version = 0;
    // SAFETY: writes a number; may be called before anything else.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(call)?;
    if version < LEAST {
        let text = |v: i32| format!("{}.{}", v / 1000, v % 1000 / 10);
        return Err(Error::Call(format!(
            "NVIDIA's driver is for CUDA {}: {} or newer is needed (driver 535 and up)",
            text(version),
            text(LEAST)
        )));
    }
    match result::init().and_then(|()| result::device::get_count()) {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => Ok(0),
        Err(e) => Err(call(e)),
    }
}

fn facts(number: usize) -> Result<Facts> {
    let device = result::device::get(i32::try_from(number).unwrap_or(i32::MAX)).map_err(call)?;
    let mut version = 0;
    // SAFETY: writes a number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(call)?;
    // SAFETY: the device exists.
    let memory = unsafe { result::device::total_mem(device) }.map_err(call)? as u64;
    let driver = format!("CUDA {}.{}", version / 1000, version % 1000 / 10);
    Ok(Facts { name: result::device::get_name(device).map_err(call)?, driver, memory, processor: false })
}

/// Refuses cards that are older than the PTX.
fn oldest(number: usize) -> Result<()> {
    let device = result::device::get(i32::try_from(number).unwrap_or(i32::MAX)).map_err(call)?;
    let major = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
    // SAFETY: the device exists.
    match unsafe { result::device::get_attribute(device, major) }.map_err(call)? {
        7.. => Ok(()),
        old => {
            Err(Error::Call(format!("CUDA device {number} is of compute capability {old}.x; 7.0 or newer is needed")))
        }
    }
}

impl Cuda {
    /// What the cards say about themselves, by their numbers.
    ///
    /// # Errors
    /// When the library is missing or the driver fails.
    pub fn list() -> Result<Vec<Facts>> {
        (0..present()?).map(facts).collect()
    }

    /// The `number`th card.
    ///
    /// # Errors
    /// When there is none, or the driver fails.
    pub fn new(number: usize) -> Result<Self> {
        let present = present()?;
        if number >= present {
            return Err(Error::Absent { kind: "CUDA", number, present });
        }
        oldest(number)?;
        let context = CudaContext::new(number).map_err(call)?;
        context.bind_to_thread().map_err(call)?;
        let at = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(call)?;
        let stream = Arc::new(Stream { at, context });
        let mut kernels = HashMap::new();
        let mut modules = Modules(vec![], Arc::clone(&stream));
        for source in &SOURCES {
            let of = |e: std::ffi::NulError| Error::Call(format!("CUDA: {}: {e}", source.file));
            let image = CString::new(source.ptx).map_err(of)?;
            // SAFETY: a terminated PTX text.
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(call)?;
            modules.0.push(module);
            for name in source.kernels() {
                let text = CString::new(&*name).map_err(of)?;
                // SAFETY: the module outlives its functions.
                let function = unsafe { result::module::get_function(module, text) }.map_err(call)?;
                kernels.insert(name, function);
            }
        }
        let (up, down) = (Mutex::new(Staging::new(&stream)?), Mutex::new(Staging::new(&stream)?));
        Ok(Self { facts: facts(number)?, kernels, _modules: modules, up, down, stream })
    }

    fn bind(&self) -> Result<()> {
        self.stream.context.bind_to_thread().map_err(call)
    }
}

impl Driver for Cuda {
    type Memory = Memory;

    fn facts(&self) -> &Facts {
        &self.facts
    }
    fn allocate(&self, bytes: usize) -> Result<Memory> {
        self.bind()?;
        // SAFETY: the content is undefined until it is written.
        let at = unsafe { result::malloc_sync(bytes.max(1)) }.map_err(call)?;
        Ok(Memory { at, stream: Arc::clone(&self.stream) })
    }
    fn write(&self, to: &Memory, from: &[u8]) -> Result<()> {
        self.bind()?;
        let staging = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        for (i, piece) in from.chunks(PIECE).enumerate() {
            let (slot, event) = staging.0[i % 2];
            // SAFETY: the slot is no longer read when its event is over (an event that was never recorded is), it holds a piece, and
            // `to` was allocated for all of them.
            unsafe {
                result::event::synchronize(event).map_err(call)?;
                slot.copy_from_nonoverlapping(piece.as_ptr(), piece.len());
                let pinned = std::slice::from_raw_parts(slot, piece.len());
                let at = to.at + (i * PIECE) as sys::CUdeviceptr;
                result::memcpy_htod_async(at, pinned, self.stream.at).map_err(call)?;
                result::event::record(event, self.stream.at).map_err(call)?;
            }
        }
        // The next write may begin with either slot; both wait for their events.
        Ok(())
    }
    fn read(&self, from: &Memory, at: usize, to: &mut [u8]) -> Result<()> {
        self.bind()?;
        let staging = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let ask = |i: usize, len: usize| -> Result<()> {
            let (slot, event) = staging.0[i % 2];
            // SAFETY: the slot was copied from before it is asked for again, and holds a piece; `from` has these bytes.
            unsafe {
                let pinned = std::slice::from_raw_parts_mut(slot, len);
                let at = from.at + (at + i * PIECE) as sys::CUdeviceptr;
                result::memcpy_dtoh_async(pinned, at, self.stream.at).map_err(call)?;
                result::event::record(event, self.stream.at).map_err(call)
            }
        };
        let lens: Vec<usize> = to.chunks(PIECE).map(<[u8]>::len).collect();
        if let Some(&first) = lens.first() {
            ask(0, first)?;
        }
        for (i, piece) in to.chunks_mut(PIECE).enumerate() {
            if let Some(&next) = lens.get(i + 1) {
                ask(i + 1, next)?;
            }
            let (slot, event) = staging.0[i % 2];
            // SAFETY: the copy to the slot is over.
            unsafe {
                result::event::synchronize(event).map_err(call)?;
                slot.copy_to_nonoverlapping(piece.as_mut_ptr(), piece.len());
            }
        }
        Ok(())
    }
    unsafe fn launch(&self, kernel: &'static str, grid: Grid, args: &[Arg<'_, Memory>]) -> Result<()> {
        self.bind()?;
        let function = *self.kernels.get(kernel).ok_or_else(|| Error::Call(format!("no kernel {kernel}")))?;
        let pointer = |arg: &Arg<'_, Memory>| -> *mut c_void {
            match arg {
                Arg::Buffer(memory) => std::ptr::from_ref(&memory.at).cast_mut().cast(),
                Arg::Value(bytes) | Arg::Secret(bytes) => bytes.as_ptr().cast_mut().cast(),
            }
        };
        let mut pointers: Vec<*mut c_void> = args.iter().map(pointer).collect();
        let [x, y, z] = grid.groups;
        // SAFETY: passed on to the caller; the driver copies the arguments before it returns.
        unsafe { result::launch_kernel(function, (x, y, z), (grid.threads, 1, 1), 0, self.stream.at, &mut pointers) }
            .map_err(|e| Error::Call(format!("{kernel}: {}", call(e))))
    }
    fn wait(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.stream.at) }.map_err(call)
    }
}
