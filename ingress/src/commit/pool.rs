//! How many publishes may wait or be under way, and how much memory their messages may take. A publisher may be gone, and
//! its share of admission with it, while its event still waits.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::config::Limits;

/// The least memory for messages, in KiB: the largest request of all has room in it with its neighbours.
const MIN_ROOM: u32 = 64 * 1024;

/// So many, and so much.
pub struct Pool {
    publishes: Arc<Semaphore>,
    most: u32,
    /// In KiB.
    room: Arc<Semaphore>,
    most_room: u32,
}

/// What was taken of a pool; given back on drop.
pub struct Taken {
    publishes: OwnedSemaphorePermit,
    room: OwnedSemaphorePermit,
}

impl Pool {
    /// What all topics have together.
    pub fn new(limits: &Limits) -> Self {
        let most = u32::try_from(limits.publishes).unwrap_or(u32::MAX).clamp(1, u16::MAX.into());
        Self::of(most, limits.body_memory_kib.clamp(MIN_ROOM, u32::MAX >> 3))
    }

    /// Half of it, for one topic of several.
    #[must_use]
    pub fn half(&self) -> Self {
        Self::of((self.most / 2).max(1), (self.most_room / 2).max(MIN_ROOM / 2))
    }

    fn of(most: u32, most_room: u32) -> Self {
        let semaphore = |size: u32| Arc::new(Semaphore::new(usize::try_from(size).unwrap_or(Semaphore::MAX_PERMITS)));
        Self { publishes: semaphore(most), most, room: semaphore(most_room), most_room }
    }

    /// How many publishes it takes at once.
    pub fn most(&self) -> usize {
        usize::try_from(self.most).unwrap_or(usize::MAX)
    }

    /// Takes so many publishes and so much memory, as soon as there is room for them; all that there is where there is
    /// not so much.
    ///
    /// # Errors
    /// The pool is closed (it is not).
    pub async fn take(&self, publishes: usize, kib: u32) -> Result<Taken, AcquireError> {
        let count = u32::try_from(publishes).unwrap_or(u32::MAX).min(self.most);
        let publishes = Arc::clone(&self.publishes).acquire_many_owned(count).await?;
        let room = Arc::clone(&self.room).acquire_many_owned(kib.min(self.most_room)).await?;
        Ok(Taken { publishes, room })
    }
}

impl Taken {
    /// The part of one message of this size, as far as there is one left.
    pub fn split(&mut self, kib: u32) -> [Option<OwnedSemaphorePermit>; 2] {
        let size = usize::try_from(kib).unwrap_or(usize::MAX).min(self.room.num_permits());
        [self.publishes.split(1), self.room.split(size)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_topic_of_several_leaves_half_to_the_others() {
        let all = Pool::new(&Limits { publishes: 4, ..Limits::default() });
        let half = all.half();
        assert_eq!((all.most(), half.most()), (4, 2));
        let mut taken = half.take(100, u32::MAX).await.unwrap();
        assert_eq!((half.publishes.available_permits(), half.room.available_permits()), (0, 0));
        let part = taken.split(1);
        drop(taken);
        assert_eq!(half.publishes.available_permits(), 1, "each is given back on its own");
        drop(part);
        assert_eq!(half.publishes.available_permits(), 2);
    }
}
