//! The topics that are served, and which of them a request is for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use tidegate_broker_client::contract::{self, Flush, ServedTopic};
use tidegate_broker_client::message_id::BadKey;

use crate::intake::Intake;

mod engine;
mod files;
mod serving;

use self::engine::RunningEngine;
pub use self::engine::{Engine, Shared};
pub use self::files::TopicsFile;
pub use self::serving::ServingAnswers;

/// All topics at a moment.
#[derive(Default)]
pub struct Table {
    /// By their hosts, in lower case.
    by_host: HashMap<String, Arc<Intake>>,
    /// By `<namespace>/<name>`.
    by_path: HashMap<String, Arc<Intake>>,
    largest_request: usize,
}

/// The topics of a broker. Requests look them up without waiting for anything; the file of topics replaces them.
pub struct Topics {
    /// What they have in common.
    pub shared: Arc<Shared>,
    current: ArcSwap<Table>,
    /// What lasts as long as its topic does, whatever becomes of its limits.
    engines: Mutex<HashMap<String, RunningEngine>>,
}

impl Table {
    /// The topic with this host name, without a port.
    pub fn by_host(&self, host: &str) -> Option<&Arc<Intake>> {
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.by_host.get(&host.to_ascii_lowercase());
        }
        self.by_host.get(host)
    }

    /// The largest request that any of them takes.
    pub fn largest_request(&self) -> usize {
        self.largest_request
    }

    /// The topic `<namespace>/<name>`.
    pub fn by_path(&self, path: &str) -> Option<&Arc<Intake>> {
        self.by_path.get(path)
    }

    fn add(&mut self, topic: &ServedTopic, intake: Arc<Intake>) {
        for host in &topic.hosts {
            let host = host.to_ascii_lowercase();
            if let Some(other) = self.by_host.get(&host) {
                tracing::warn!(host, topic = %topic.id, other = %other.id, "two topics have one host name: the first keeps it");
            } else {
                self.by_host.insert(host, Arc::clone(&intake));
            }
        }
        self.largest_request = self.largest_request.max(intake.share.request_limit);
        self.by_path.insert(topic.id.to_string(), intake);
    }
}

impl Topics {
    /// None yet.
    pub fn new(shared: Shared) -> Arc<Self> {
        Arc::new(Self { shared: Arc::new(shared), current: ArcSwap::default(), engines: Mutex::default() })
    }

    /// Those of the moment.
    pub fn current(&self) -> Guard<Arc<Table>> {
        self.current.load()
    }

    /// Writes what was counted of publishers.
    pub fn write_audit(&self) {
        let engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        let audits: Vec<_> = engines.values().map(|running| Arc::clone(&running.engine.audit)).collect();
        drop(engines);
        audits.iter().for_each(|audit| audit.write());
    }

    /// From now on serves these. What is in progress of one that is gone ends as if it were there; one that is there
    /// with other limits continues with what it has under way.
    ///
    /// # Errors
    /// A topic has no key. Nothing has changed then.
    pub fn replace(&self, wanted: &contract::Topics) -> Result<(), BadKey> {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current.load_full();
        let is_alone = wanted.topics.len() == 1;
        let (mut table, mut next) = (Table::default(), HashMap::with_capacity(wanted.topics.len()));
        for topic in &wanted.topics {
            let path = topic.id.to_string();
            let engine = match engines.get(&path).filter(|engine| engine.is_for(topic)) {
                Some(engine) => engine.clone(),
                None => RunningEngine::start(&self.shared, topic)?,
            };
            engine.engine.publisher.set_alone(is_alone);
            let share = before.by_path(&path).map(|intake| &intake.share);
            let share = match share.filter(|share| share.is_for(topic.max_event_size, is_alone)) {
                Some(share) => Arc::clone(share),
                None => Arc::new(self.shared.admission.topic(topic.max_event_size, is_alone)),
            };
            table.add(topic, Arc::new(Intake::new(topic, &engine.engine, share)));
            next.insert(path, engine);
        }
        for (path, engine) in engines.iter() {
            if !next.get(path).is_some_and(|other| other.is_same(engine)) {
                engine.stop();
            }
        }
        *engines = next;
        let flush = if wanted.several_servers { Flush::Shared } else { self.shared.flush_of_one };
        self.shared.flush.send_if_modified(|known| std::mem::replace(known, flush) != flush);
        self.current.store(Arc::new(table));
        Ok(())
    }
}
