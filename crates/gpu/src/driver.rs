//! The seam between the device and a vendor's driver: memory and launches, in order. All arithmetic lives in `kernels/`.

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The vendor's library is not on this machine, or too old.
    #[error("{library} is not on this machine: install {install}, or compute on the processor (cpu)")]
    Library {
        /// Its name.
        library: &'static str,
        /// What brings it.
        install: &'static str,
    },
    /// There is no such device.
    #[error(
        "there is no {kind} device {number}: of this kind there are {present}, numbered from 0 (`sordino devices` lists them)"
    )]
    Absent {
        /// Whose.
        kind: &'static str,
        /// The number asked for.
        number: usize,
        /// How many there are.
        present: usize,
    },
    /// Memory ran out, or the cap on it was reached.
    #[error("the device has no room for {asked} more bytes beside the {held} that it holds{}: `sordino plan` says what a run needs at most", cap_text(.cap))]
    Memory {
        /// Bytes asked for.
        asked: usize,
        /// Bytes held.
        held: usize,
        /// The cap, where there is one.
        cap: Option<usize>,
    },
    /// A call of the driver failed.
    #[error("{0}")]
    Call(String),
}

fn cap_text(cap: &Option<usize>) -> String {
    cap.map_or_else(String::new, |c| format!(" ({c} are allowed)"))
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What a device says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its name, for people.
    pub name: String,
    /// The driver and its version.
    pub driver: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Whether it is a processor, and no card: for tests, since there the time that the cipher takes depends on keys.
    pub processor: bool,
}

/// What a kernel is given: a buffer, or a value by its bytes.
pub enum Arg<'a, M> {
    /// A whole block of memory.
    Buffer(&'a M),
    /// A number or a struct of numbers.
    Value(&'a [u8]),
    /// The same, of which the driver keeps no copy longer than it must.
    Secret(&'a [u8]),
}

/// Threads of every work group of a launch, and groups along each axis.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Threads of a group.
    pub threads: u32,
    /// Groups along each axis.
    pub groups: [u32; 3],
}

/// One in-order queue of one processor. What is queued sees all that was queued before it, also in memory that was let go and taken
/// again in between.
pub trait Driver: Send + Sync + Sized + 'static {
    /// A block of device memory, freed on drop.
    type Memory: Send + Sync;

    /// What the device says about itself.
    fn facts(&self) -> &Facts;
    /// Bytes of undefined content.
    ///
    /// # Errors
    /// When the driver has no room.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory>;
    /// Copies from the host to the start of a block; the host's bytes may be reused at once.
    ///
    /// # Errors
    /// When a call fails.
    fn write(&self, to: &Self::Memory, from: &[u8]) -> Result<()>;
    /// Copies from `at` bytes into a block to the host and waits.
    ///
    /// # Errors
    /// When a call fails, of this copy or of what was queued before it.
    fn read(&self, from: &Self::Memory, at: usize, to: &mut [u8]) -> Result<()>;
    /// Queues a kernel.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and it stays within the buffers.
    ///
    /// # Errors
    /// When a call fails.
    unsafe fn launch(&self, kernel: &'static str, grid: Grid, args: &[Arg<'_, Self::Memory>]) -> Result<()>;
    /// Waits for all that was queued.
    ///
    /// # Errors
    /// When a call fails, of this or of what was queued before it.
    fn wait(&self) -> Result<()>;
}
