//! Buffers that are used again.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is read at once, in bytes.
pub const READ_BYTES: usize = 8 << 10;
/// What is written is gathered in one buffer up to this many bytes.
pub const WRITE_BYTES: usize = 8 << 10;
/// Of each kind so many are kept. A runtime of one thread rarely needs a second one.
const MAX_KEPT: usize = 16;

/// Buffers that no one uses at the moment.
#[derive(Debug, Default)]
pub struct Buffers {
    read: Mutex<Vec<Vec<u8>>>,
    write: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// [`READ_BYTES`] of whatever was in them before.
    pub fn take_for_read(&self) -> Vec<u8> {
        lock(&self.read).pop().unwrap_or_else(|| vec![0; READ_BYTES])
    }

    /// An empty one.
    pub fn take_for_write(&self) -> Vec<u8> {
        lock(&self.write).pop().unwrap_or_default()
    }

    pub fn give_back_read(&self, buffer: Vec<u8>) {
        if buffer.len() == READ_BYTES {
            keep(&self.read, buffer);
        }
    }

    pub fn give_back_written(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= 2 * WRITE_BYTES {
            buffer.clear();
            keep(&self.write, buffer);
        }
    }
}

fn keep(kept: &Mutex<Vec<Vec<u8>>>, buffer: Vec<u8>) {
    let mut kept = lock(kept);
    if kept.len() < MAX_KEPT {
        kept.push(buffer);
    }
}

fn lock(buffers: &Mutex<Vec<Vec<u8>>>) -> MutexGuard<'_, Vec<Vec<u8>>> {
    buffers.lock().unwrap_or_else(PoisonError::into_inner)
}
