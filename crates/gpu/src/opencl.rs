//! OpenCL 1.2 with 64-bit integers: the drivers of AMD, Intel, Apple and NVIDIA, and PoCL on processors.

use crate::driver::{Arg, Driver, Error, Facts, Grid, Result};
use crate::sources::SOURCES;
use opencl3::command_queue::CommandQueue;
use opencl3::context::Context;
use opencl3::device::{CL_DEVICE_TYPE_ALL, Device};
use opencl3::error_codes::ClError;
use opencl3::kernel::Kernel;
use opencl3::memory::{Buffer, CL_MEM_READ_WRITE, ClMem};
use opencl3::program::Program;
use opencl3::types::{CL_BLOCKING, cl_device_id, cl_mem};
use std::collections::{BTreeMap, HashMap};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A device of any vendor. All that a process opens of one device share its queue: PoCL 3.1 ends the process now and then when kernels of
/// several queues run at once, and a card that one process has three servers on computes one kernel after another anyway.
pub struct OpenCl {
    built: Arc<Built>,
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
    if opencl3::platform::get_platforms().is_err_and(|e| e.0 == NO_PLATFORM) {
        return Ok(vec![]);
    }
    let library = Error::Library {
        library: "OpenCL (libOpenCL.so.1)",
        install: "ocl-icd-libopencl1 and the driver of the card's vendor (pocl-opencl-icd for a processor)",
    };
    let platforms = opencl3::platform::get_platforms().map_err(|_| library)?;
    let devices = platforms.iter().map(|p| p.get_devices(CL_DEVICE_TYPE_ALL).unwrap_or_default());
    Ok(devices.flatten().collect())
}

fn facts(device: Device) -> Result<Facts> {
    let of = |e: ClError| call(&e);
    let driver = format!("OpenCL {}, {}", device.vendor().map_err(of)?, device.driver_version().map_err(of)?);
    Ok(Facts { name: device.name().map_err(of)?, driver, memory: device.global_mem_size().map_err(of)? })
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
        Ok(Self { built: Built::of(number)? })
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

/// A block of memory, which the library wants to itself when it is written.
pub struct Memory(Mutex<Buffer<u8>>);

impl Driver for OpenCl {
    type Memory = Memory;

    fn facts(&self) -> &Facts {
        &self.built.facts
    }
    fn allocate(&self, bytes: usize) -> Result<Memory> {
        // SAFETY: no host memory is shared.
        unsafe { Buffer::create(&self.built.context, CL_MEM_READ_WRITE, bytes.max(1), ptr::null_mut()) }
            .map(|b| Memory(Mutex::new(b)))
            .map_err(|e| call(&e))
    }
    fn write(&self, to: &Memory, from: &[u8]) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        let mut to = to.0.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the call returns when the bytes have been taken; the driver refuses what does not fit.
        unsafe { self.built.queue.enqueue_write_buffer(&mut to, CL_BLOCKING, 0, from, &[]) }
            .map(drop)
            .map_err(|e| call(&e))
    }
    fn read(&self, from: &Memory, at: usize, to: &mut [u8]) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        let from = from.0.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the call returns when the bytes are there; the driver refuses what does not fit.
        unsafe { self.built.queue.enqueue_read_buffer(&from, CL_BLOCKING, at, to, &[]) }.map(drop).map_err(|e| call(&e))
    }
    unsafe fn launch(&self, kernel: &'static str, grid: Grid, args: &[Arg<'_, Memory>]) -> Result<()> {
        // Arguments belong to the kernel object, which is therefore held until it is queued.
        let kernels = self.built.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let object = kernels.get(kernel).ok_or_else(|| Error::Call(format!("no kernel {kernel}")))?;
        for (i, arg) in args.iter().enumerate() {
            // SAFETY: the pointer is to so many bytes, which the driver copies before it returns.
            let set = |size, at| unsafe { opencl3::kernel::set_kernel_arg(object.get(), i as u32, size, at) };
            match arg {
                Arg::Buffer(memory) => {
                    let memory = memory.0.lock().unwrap_or_else(PoisonError::into_inner);
                    let handle: cl_mem = memory.get();
                    set(size_of::<cl_mem>(), ptr::from_ref(&handle).cast())
                }
                Arg::Value(bytes) => set(bytes.len(), bytes.as_ptr().cast()),
            }
            .map_err(|e| Error::Call(format!("OpenCL: {kernel}, argument {i}: {}", ClError(e))))?;
        }
        let local = [grid.threads as usize, 1, 1];
        let global: [usize; 3] = std::array::from_fn(|i| grid.groups[i] as usize * local[i]);
        // SAFETY: passed on to the caller.
        unsafe {
            self.built.queue.enqueue_nd_range_kernel(object.get(), 3, ptr::null(), global.as_ptr(), local.as_ptr(), &[])
        }
        .map(drop)
        .map_err(|e| Error::Call(format!("OpenCL: {kernel}: {e}")))
    }
    fn wait(&self) -> Result<()> {
        self.built.queue.finish().map_err(|e| call(&e))
    }
}
