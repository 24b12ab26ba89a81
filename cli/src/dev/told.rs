//! What a run tells: to whoever publishes, and to the person at the terminal.

use std::sync::Arc;

use tokio::time::Instant;

use super::broker::{CA_FILE, HOST};
use super::http::{Way, Ways};
use super::project::Topic;
use super::running::{Running, RunningTopic};
use super::session::{Session, Up};
use crate::failure::Failure;
use crate::terminal::print;

impl Session {
    /// Says to whoever publishes where, and with which tokens.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn tell_ways(&self, up: &Up) -> Result<(), Failure> {
        let (mut ways, mut topics) = (Ways::new(), Vec::new());
        self.state.folder("tokens")?;
        for topic in &up.project.topics {
            let id = topic.id().clone();
            let url = format!("https://{HOST}:{}/{}/{}", up.https, id.namespace(), id.name());
            let token = self.tokens.of(topic);
            let file = format!("tokens/{}.{}", id.namespace(), id.name());
            let token_file = token.as_ref().map(|token| self.state.write(&file, token)).transpose()?;
            let way = Way { url: url.parse().map_err(Failure::failed)?, token };
            ways.insert(format!("/{}/{}", id.namespace(), id.name()), way.clone());
            ways.insert(path(&up.project.topics, topic), way);
            let http =
                self.arguments.http.map(|port| format!("http://127.0.0.1:{port}{}", path(&up.project.topics, topic)));
            topics.push(RunningTopic { id, url, http, token_file });
        }
        self.ways.send_replace(Arc::new(ways));
        let running = Running { pid: std::process::id(), ca: self.state.root().join(CA_FILE), topics };
        self.state.write_running(&serde_json::to_string(&running).map_err(Failure::failed)?)
    }

    /// Says that events can be published, and where.
    pub(super) fn tell_ready(&self, up: &Up, began: Instant) -> Result<(), Failure> {
        print(&format!("ready after {} ms", began.elapsed().as_millis()))?;
        for topic in &up.project.topics {
            let id = topic.id();
            let http =
                self.arguments.http.map(|port| format!(", http://127.0.0.1:{port}{}", path(&up.project.topics, topic)));
            print(&format!(
                "  topic {}: https://{HOST}:{}/{}/{}{}",
                id.name(),
                up.https,
                id.namespace(),
                id.name(),
                http.unwrap_or_default()
            ))?;
        }
        for handler in &up.project.handlers {
            let delivery = &handler.settings.delivery;
            print(&format!(
                "  handler {}: events go to http://127.0.0.1:{}{}",
                handler.name, delivery.port, delivery.path
            ))?;
        }
        print(&format!(
            "  events, tokens and logs: {} (--fresh begins without the events)",
            self.state.root().display()
        ))
    }
}

/// The path of a topic in plain HTTP: without its namespace, where that says enough.
fn path(topics: &[Topic], topic: &Topic) -> String {
    let id = topic.id();
    let is_one = topics.iter().filter(|other| other.id().name() == id.name()).count() == 1;
    if is_one { format!("/{}", id.name()) } else { format!("/{}/{}", id.namespace(), id.name()) }
}
