//! Connections that are not used at the moment, the last one first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::{Instant, interval};

use super::IdleLimits;
use super::buffers::Buffers;
use super::wire::Connection;
use crate::http::RequestPrefix;

/// What the requests of a client share.
#[derive(Debug)]
pub struct Pool {
    /// How all requests begin.
    pub prefix: RequestPrefix,
    pub limits: IdleLimits,
    pub buffers: Buffers,
    /// The one that was used last is the last.
    idle: Mutex<VecDeque<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

impl Pool {
    /// Closes what becomes too old, as long as it lives.
    pub fn start(prefix: RequestPrefix, limits: IdleLimits) -> Arc<Self> {
        let pool = Arc::new(Self { prefix, limits, buffers: Buffers::default(), idle: Mutex::default() });
        tokio::spawn(expire(Arc::downgrade(&pool), limits));
        pool
    }

    /// The one that was used last, if it is still good.
    pub fn take(&self) -> Option<Box<Connection>> {
        let mut idle = self.idle();
        while let Some(Idle { connection, since }) = idle.pop_back() {
            if since.elapsed() >= self.limits.max_age {
                // All others are older.
                idle.clear();
            } else if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Whether there is one; it may have become too old.
    pub fn has_idle(&self) -> bool {
        !self.idle().is_empty()
    }

    pub fn give_back(&self, connection: Box<Connection>) {
        let mut idle = self.idle();
        if idle.len() < self.limits.max_connections {
            idle.push_back(Idle { connection, since: Instant::now() });
        }
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
