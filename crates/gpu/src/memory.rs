//! Blocks of device memory: taken from a pool, shared by buffers, and overwritten before the driver gets them back.

use crate::driver::{Arg, Driver, Error, Grid, Result};
use sordino_ring::Word;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The driver with the blocks that are not in use, and the first failure of the device.
pub(crate) struct Pool<D: Driver> {
    pub(crate) driver: D,
    failure: OnceLock<Error>,
    blocks: Mutex<Blocks<D::Memory>>,
    cap: Option<usize>,
}

struct Blocks<M> {
    /// Not in use, by size.
    free: BTreeMap<usize, Vec<M>>,
    /// Bytes taken from the driver.
    held: usize,
}

/// The size that a block of so many bytes has: an eighth is wasted at most, and sizes are few, so that blocks are used again.
fn class(bytes: usize) -> usize {
    let bytes = bytes.max(256);
    bytes.next_multiple_of(1 << (bytes.ilog2() - 3))
}

impl<D: Driver> Pool<D> {
    pub(crate) fn new(driver: D, cap: Option<usize>) -> Self {
        let blocks = Mutex::new(Blocks { free: BTreeMap::new(), held: 0 });
        Self { driver, failure: OnceLock::new(), blocks, cap }
    }

    /// The first failure, if there was one.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.get()
    }

    /// Remembers a failure, unless there was one before.
    pub(crate) fn fail(&self, e: Error) {
        // Whoever came first stays.
        let _ = self.failure.set(e);
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks<D::Memory>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of at least so many bytes.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Result<Block<D>> {
        let size = class(bytes);
        let mut blocks = self.blocks();
        if let Some(memory) = blocks.free.get_mut(&size).and_then(Vec::pop) {
            return Ok(Block { memory: Some(memory), size, pool: Arc::clone(self) });
        }
        let fits = |held: usize| self.cap.is_none_or(|cap| held + size <= cap);
        let full = |held| Error::Memory { asked: size, held, cap: self.cap };
        if !fits(blocks.held) {
            self.release(&mut blocks)?;
        }
        if !fits(blocks.held) {
            return Err(full(blocks.held));
        }
        let memory = match self.driver.allocate(size) {
            Ok(memory) => memory,
            Err(first) => {
                let free = !blocks.free.is_empty();
                self.release(&mut blocks)?;
                let retried = if free { self.driver.allocate(size) } else { Err(first) };
                retried.map_err(|e| Error::Call(format!("{} ({e})", full(blocks.held))))?
            }
        };
        blocks.held += size;
        Ok(Block { memory: Some(memory), size, pool: Arc::clone(self) })
    }

    /// Gives what is not in use back to the driver, overwritten: it promises nothing to whoever has it next.
    fn release(&self, blocks: &mut Blocks<D::Memory>) -> Result<()> {
        let wipe = |size: usize, memory: &D::Memory| {
            let n = (size / 8) as u64;
            let args = [Arg::Buffer(memory), Arg::Value(bytemuck::bytes_of(&n))];
            let groups = [(size / 8).div_ceil(256).clamp(1, 2048) as u32, 1, 1];
            // SAFETY: `wipe` writes n words of 8 bytes to a block of `size` bytes.
            unsafe { self.driver.launch("wipe", Grid { threads: 256, groups }, &args) }
        };
        let wiped = blocks.free.iter().try_for_each(|(&size, all)| all.iter().try_for_each(|m| wipe(size, m)));
        // Nothing that is still queued may find its memory gone.
        self.driver.wait()?;
        wiped?;
        for (size, memories) in std::mem::take(&mut blocks.free) {
            blocks.held -= size * memories.len();
        }
        Ok(())
    }
}

impl<D: Driver> Drop for Pool<D> {
    fn drop(&mut self) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        // A device that no longer answers cannot be told to forget.
        let _ = self.release(&mut blocks);
    }
}

/// A block of device memory, which goes back to its pool.
pub(crate) struct Block<D: Driver> {
    /// There until the drop.
    memory: Option<D::Memory>,
    size: usize,
    pool: Arc<Pool<D>>,
}

impl<D: Driver> Block<D> {
    pub(crate) fn memory(&self) -> Result<&D::Memory> {
        self.memory.as_ref().ok_or_else(|| Error::Call("a block of memory was used after its end".into()))
    }
}

impl<D: Driver> Drop for Block<D> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.blocks().free.entry(self.size).or_default().push(memory);
        }
    }
}

/// A buffer: elements of a block, which several buffers may share, since none is written twice.
pub struct Buf<D: Driver, W> {
    /// None on a device that failed.
    pub(crate) block: Option<Arc<Block<D>>>,
    /// The first element.
    pub(crate) start: u64,
    pub(crate) len: usize,
    word: PhantomData<W>,
}

impl<D: Driver, W: Word> Buf<D, W> {
    pub(crate) fn new(block: Option<Arc<Block<D>>>, start: u64, len: usize) -> Self {
        Self { block, start, len, word: PhantomData }
    }

    /// Elements `start .. start + len`.
    pub(crate) fn part(&self, start: usize, len: usize) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "a slice lies within its buffer");
        Self::new(self.block.clone(), self.start + start as u64, len)
    }

    pub(crate) fn memory(&self) -> Result<&D::Memory> {
        self.block.as_ref().ok_or_else(|| Error::Call("the device failed before".into()))?.memory()
    }
}

#[cfg(test)]
mod tests {
    use super::class;

    #[test]
    fn sizes_are_few_and_waste_little() {
        for bytes in (0..70_000).chain([1 << 30, (1 << 30) + 1, usize::MAX / 4]) {
            let size = class(bytes);
            assert!(size >= bytes && size.is_multiple_of(8), "{bytes} {size}");
            assert!(bytes < 256 || size - bytes <= bytes / 8, "{bytes} {size}");
        }
    }
}
