//! Connections that are not used at the moment, the last one first.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::net::TcpStream;
use tokio::time::{Instant, interval};

use super::IdleLimits;
use super::buffers::Buffers;

/// What the requests of a client share.
#[derive(Debug)]
pub struct Pool {
    limits: IdleLimits,
    pub buffers: Buffers,
    /// The one that was used last is the last.
    idle: Mutex<VecDeque<Idle>>,
}

#[derive(Debug)]
struct Idle {
    stream: TcpStream,
    since: Instant,
}

impl Pool {
    /// Closes what becomes too old, as long as it lives.
    pub fn start(limits: IdleLimits) -> Arc<Self> {
        let pool = Arc::new(Self { limits, buffers: Buffers::default(), idle: Mutex::default() });
        tokio::spawn(expire(Arc::downgrade(&pool), limits));
        pool
    }

    /// The one that was used last, if it is still good.
    pub fn take(&self) -> Option<TcpStream> {
        let mut idle = self.idle();
        while let Some(Idle { stream, since }) = idle.pop_back() {
            if since.elapsed() >= self.limits.max_age {
                // All others are older.
                idle.clear();
            } else if is_quiet(&stream) {
                return Some(stream);
            }
        }
        None
    }

    pub fn give_back(&self, stream: TcpStream) {
        let mut idle = self.idle();
        if idle.len() < self.limits.max_connections {
            idle.push_back(Idle { stream, since: Instant::now() });
        }
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the server has neither closed nor said anything without having been asked: that would be taken for the
/// answer to the next request.
fn is_quiet(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// Closes what was not used for a while, as long as there is a pool.
async fn expire(pool: Weak<Pool>, limits: IdleLimits) {
    let mut ticks = interval(limits.max_age / 2);
    loop {
        ticks.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.idle();
        let expired = idle.partition_point(|one| one.since.elapsed() >= limits.max_age);
        idle.drain(..expired);
    }
}
