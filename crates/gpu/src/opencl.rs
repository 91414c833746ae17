//! OpenCL 1.2 with 64-bit integers: the drivers of AMD, Intel, Apple and NVIDIA, and PoCL on processors.

use crate::driver::{Arg, Driver, Error, Facts, Grid, Result};
use crate::sources::SOURCES;
use opencl3::command_queue::{CommandQueue, enqueue_nd_range_kernel, enqueue_read_buffer, enqueue_write_buffer};
use opencl3::context::Context;
use opencl3::device::{CL_DEVICE_TYPE_ALL, CL_DEVICE_TYPE_CPU, Device};
use opencl3::error_codes::ClError;
use opencl3::event;
use opencl3::kernel::{Kernel, set_kernel_arg};
use opencl3::memory::{CL_MEM_READ_WRITE, create_buffer, release_mem_object};
use opencl3::program::Program;
use opencl3::types::{CL_BLOCKING, cl_device_id, cl_event, cl_int, cl_mem};
use std::collections::{BTreeMap, HashMap};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A device of any vendor. All that a process opens of one device share its queue: PoCL 3.1 ends the process now and then when kernels of
/// several queues run at once, and a card that one process has three servers on computes one kernel after another anyway.
pub struct OpenCl {
    built: Arc<Built>,
    /// Kernels whose end nobody has looked at: a read does not fail because a kernel before it did.
    launched: Mutex<Vec<Launched>>,
}

/// What all who use a device share: building the kernels takes seconds.
struct Built {
    facts: Facts,
    // Dropped in this order.
    /// Kernel objects hold the arguments of their next launch.
    kernels: Mutex<HashMap<String, Kernel>>,
    queue: CommandQueue,
    context: Context,
}

/// Those in use, by number.
static BUILT: Mutex<BTreeMap<usize, Weak<Built>>> = Mutex::new(BTreeMap::new());

fn call(error: &ClError) -> Error {
    Error::Call(format!("OpenCL: {error}"))
}

/// The loader's answer where it knows no driver of any vendor.
const NO_PLATFORM: i32 = -1001;

fn ids() -> Result<Vec<cl_device_id>> {
    const DRIVER: &str = "the OpenCL driver of the card's vendor (pocl-opencl-icd for a processor, for tests)";
    let none = || Error::Library { library: "an OpenCL driver with a device", install: DRIVER };
    let platforms = opencl3::platform::get_platforms().map_err(|e| match e.0 {
        NO_PLATFORM => none(),
        _ => Error::Library {
            library: "OpenCL (libOpenCL.so.1)",
            install: "ocl-icd-libopencl1, and the driver of the card's vendor",
        },
    })?;
    let devices = platforms.iter().map(|p| p.get_devices(CL_DEVICE_TYPE_ALL).unwrap_or_default());
    let devices: Vec<_> = devices.flatten().collect();
    if devices.is_empty() { Err(none()) } else { Ok(devices) }
}

fn facts(device: Device) -> Result<Facts> {
    let of = |e: ClError| call(&e);
    let driver = format!("OpenCL {}, {}", device.vendor().map_err(of)?, device.driver_version().map_err(of)?);
    let processor = device.dev_type().map_err(of)? & CL_DEVICE_TYPE_CPU != 0;
    let (name, memory) = (device.name().map_err(of)?, device.global_mem_size().map_err(of)?);
    Ok(Facts { name, driver, memory, processor })
}

impl OpenCl {
    /// What the devices of all vendors say about themselves, by their numbers.
    ///
    /// # Errors
    /// When the library is missing or a driver fails.
    pub fn list() -> Result<Vec<Facts>> {
        ids()?.into_iter().map(|id| facts(Device::new(id))).collect()
    }

    /// The `number`th device of all vendors. Kernels are built from source, which takes seconds where the driver has not kept them.
    ///
    /// # Errors
    /// When there is none, or its driver fails.
    pub fn new(number: usize) -> Result<Self> {
        Ok(Self { built: Built::of(number)?, launched: Mutex::default() })
    }
}

impl Built {
    /// A device's, as somebody else has it or anew.
    fn of(number: usize) -> Result<Arc<Self>> {
        let mut all = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(built) = all.get(&number).and_then(Weak::upgrade) {
            return Ok(built);
        }
        let ids = ids()?;
        let absent = Error::Absent { kind: "OpenCL", number, present: ids.len() };
        let id = *ids.get(number).ok_or(absent)?;
        let device = Device::new(id);
        let facts = facts(device)?;
        let of = |e: ClError| call(&e);
        let context = Context::from_device(&device).map_err(of)?;
        // SAFETY: the context outlives the queue; no properties are asked for, so the queue is in order.
        #[allow(deprecated, reason = "OpenCL 1.2 has no other way")]
        let queue = unsafe { CommandQueue::create(&context, id, 0) }.map_err(of)?;
        let mut kernels = HashMap::new();
        for source in &SOURCES {
            let program = Program::create_and_build_from_source(&context, &source.full(), "-cl-std=CL1.2")
                .map_err(|log| Error::Call(format!("OpenCL: {} does not build: {}", source.file, log.trim())))?;
            for kernel in opencl3::kernel::create_program_kernels(&program).map_err(of)? {
                kernels.insert(kernel.function_name().map_err(of)?, kernel);
            }
        }
        let built = Arc::new(Self { facts, kernels: Mutex::new(kernels), queue, context });
        all.insert(number, Arc::downgrade(&built));
        Ok(built)
    }
}

/// A block of memory, by its handle: the library's own type panics where a driver that failed does not release it.
pub struct Memory(cl_mem);

// SAFETY: memory objects are handles that any thread may use.
unsafe impl Send for Memory {}
// SAFETY: as above; who writes and who reads is a matter of the queue's order.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: created by `allocate`, released once; the driver keeps it for as long as a queued kernel needs it.
        let _ = unsafe { release_mem_object(self.0) };
    }
}

/// The event of a command, likewise.
struct Launched(cl_event);

// SAFETY: events are handles that any thread may use.
unsafe impl Send for Launched {}

impl Launched {
    /// Where its command is: 0 when it is over, above before that, below when it failed.
    fn status(&self) -> cl_int {
        let info = event::get_event_info(self.0, event::CL_EVENT_COMMAND_EXECUTION_STATUS);
        info.map(|info| info.to_int()).unwrap_or_else(|e| e)
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        // SAFETY: held once, released once.
        let _ = unsafe { event::release_event(self.0) };
    }
}

/// Launches after which those that are over are forgotten.
const MANY: usize = 4096;

impl OpenCl {
    fn launched(&self) -> MutexGuard<'_, Vec<Launched>> {
        self.launched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the launches that are over. Fails for one that failed: what is read after it would be anything.
    fn look(launched: &mut Vec<Launched>) -> Result<()> {
        if let Some(e) = launched.iter().map(Launched::status).find(|s| *s < 0) {
            return Err(Error::Call(format!("OpenCL: a kernel failed: {}", ClError(e))));
        }
        launched.retain(|l| l.status() > 0);
        Ok(())
    }
}

fn code(error: cl_int) -> Error {
    call(&ClError(error))
}

impl Driver for OpenCl {
    type Memory = Memory;

    fn facts(&self) -> &Facts {
        &self.built.facts
    }
    fn allocate(&self, bytes: usize) -> Result<Memory> {
        // SAFETY: no host memory is shared.
        unsafe { create_buffer(self.built.context.get(), CL_MEM_READ_WRITE, bytes.max(1), ptr::null_mut()) }
            .map(Memory)
            .map_err(code)
    }
    fn write(&self, to: &Memory, from: &[u8]) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        let (queue, at) = (self.built.queue.get(), from.as_ptr().cast());
        // SAFETY: the call returns when the bytes have been taken; the driver refuses what does not fit.
        unsafe { enqueue_write_buffer(queue, to.0, CL_BLOCKING, 0, from.len(), at, 0, ptr::null()) }
            .map(|e| drop(Launched(e)))
            .map_err(code)
    }
    fn read(&self, from: &Memory, at: usize, to: &mut [u8]) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        let (queue, host) = (self.built.queue.get(), to.as_mut_ptr().cast());
        // SAFETY: the call returns when the bytes are there; the driver refuses what does not fit.
        unsafe { enqueue_read_buffer(queue, from.0, CL_BLOCKING, at, to.len(), host, 0, ptr::null()) }
            .map(|e| drop(Launched(e)))
            .map_err(code)?;
        Self::look(&mut self.launched())
    }
    unsafe fn launch(&self, kernel: &'static str, grid: Grid, args: &[Arg<'_, Memory>]) -> Result<()> {
        let failed = |e: cl_int| Error::Call(format!("OpenCL: {kernel}: {}", ClError(e)));
        // Arguments belong to the kernel object, which is therefore held until it is queued.
        let kernels = self.built.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let object = kernels.get(kernel).ok_or_else(|| Error::Call(format!("no kernel {kernel}")))?.get();
        // SAFETY: the pointer is to so many bytes, which the driver copies before it returns.
        let set = |i: usize, size, at| unsafe { set_kernel_arg(object, i as u32, size, at) }.map_err(failed);
        for (i, arg) in args.iter().enumerate() {
            match arg {
                Arg::Buffer(memory) => set(i, size_of::<cl_mem>(), ptr::from_ref(&memory.0).cast()),
                Arg::Value(bytes) | Arg::Secret(bytes) => set(i, bytes.len(), bytes.as_ptr().cast()),
            }?;
        }
        let local = [grid.threads as usize, 1, 1];
        let global: [usize; 3] = std::array::from_fn(|i| grid.groups[i] as usize * local[i]);
        let (queue, none) = (self.built.queue.get(), ptr::null());
        // SAFETY: passed on to the caller.
        let queued =
            unsafe { enqueue_nd_range_kernel(queue, object, 3, none, global.as_ptr(), local.as_ptr(), 0, ptr::null()) };
        // A queued kernel has its arguments; the object would hold them until the next one.
        for (i, arg) in args.iter().enumerate() {
            if let Arg::Secret(bytes) = arg {
                set(i, bytes.len(), vec![0u8; bytes.len()].as_ptr().cast())?;
            }
        }
        let mut launched = self.launched();
        launched.push(Launched(queued.map_err(failed)?));
        if launched.len() > MANY { Self::look(&mut launched) } else { Ok(()) }
    }
    fn wait(&self) -> Result<()> {
        self.built.queue.finish().map_err(|e| call(&e))?;
        Self::look(&mut self.launched())
    }
}
