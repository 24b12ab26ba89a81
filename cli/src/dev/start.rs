//! How a run starts: in which order, and what each program is told.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tidegate_broker_admin::server::{NAME_VARIABLE, name_value};
use tidegate_operator::programs::{self as operator, IngressPlace};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::broker::{self, Broker, HOST, ServerPorts};
use super::formed::SERVER;
use super::process::{Output, Process};
use super::project::Project;
use super::session::{Session, Up, taken};
use super::sidecars::{self, is_ready};
use super::{http, ports, watch};
use crate::failure::Failure;
use crate::terminal::{self, print};

/// How long a program may take to start.
const START: Duration = Duration::from_secs(30);
/// Between two looks at one that starts.
const LOOK: Duration = Duration::from_millis(5);

impl Session {
    /// Starts everything, and waits until events can be published.
    ///
    /// # Errors
    /// Something does not start.
    pub(super) async fn start(&mut self) -> Result<Up, Failure> {
        let began = Instant::now();
        let project = self.read_project()?;
        for note in &project.notes {
            print(&format!("note: {note}"))?;
        }
        let taken: Vec<u16> = taken(&project, self.arguments.http);
        let [client, monitor, route, wake, https, mqtt, admin, spans] = ports::free(&taken)?;
        let server = ServerPorts { client, monitor, route, wake };
        let authority = self.state.authority()?;
        broker::prepare(&self.state, &authority, &project, server)?;
        broker::write_topics(&self.state, &authority, &project.topics, &self.tokens.trust())?;
        watch::receive(spans, self.happened.clone()).await?;
        self.start_program(&project)?;
        self.start_server(server)?;
        self.until(
            |session| &mut session.nats,
            "nats-server",
            async || TcpStream::connect((HOST, client)).await.is_ok(),
        )
        .await?;
        let mut broker = Broker::connect(authority.clone(), server.servers()).await?;
        broker.ensure_accounts(&project.topics).await?;
        // Not before its account is as it shall be: a server that loads an account for whoever connects first may miss what
        // is pushed meanwhile (docs/brokers.md). Before the streams, for which the server waits until the ingress wakes it.
        self.start_ingress(&project, server, [https, mqtt, admin], spans)?;
        let mut up = Up { authority, broker, project, server, https, spans };
        Box::pin(self.apply(&mut up)).await?;
        if let Some(port) = self.arguments.http {
            http::serve(port, &up.authority.trusted_servers(), self.ways.subscribe()).await?;
        }
        self.until(|session| &mut session.ingress, "ingress", async || is_ready(admin).await).await?;
        self.tell_ready(&up, began)?;
        Ok(up)
    }

    fn start_program(&mut self, project: &Project) -> Result<(), Failure> {
        let Some((program, arguments)) = self.arguments.program.split_first() else { return Ok(()) };
        for handler in &project.handlers {
            let port = handler.settings.delivery.port;
            if ports::is_used(port) {
                return Err(Failure::Failed(format!(
                    "port {port} is in use, and handler {} delivers to it: end what listens there, leave out the program after -- if that is to get the events, or give the handler another port by --port {}=PORT",
                    handler.name, handler.name
                )));
            }
        }
        let mut environment: BTreeMap<String, String> = BTreeMap::new();
        if let Some(first) = project.handlers.first() {
            environment.insert("PORT".into(), first.settings.delivery.port.to_string());
        }
        environment.extend(project.handlers.iter().flat_map(|handler| handler.environment()));
        let prepare = |command: &mut Command| {
            // A program that writes into a pipe would keep its lines for later.
            command.args(arguments).env("PYTHONUNBUFFERED", "1").envs(environment);
        };
        let name = Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned());
        let started = Process::start(
            &terminal::text(&name.unwrap_or_default()),
            Path::new(program),
            prepare,
            &Output { logs: None, ..self.output.clone() },
            &self.keeper,
        );
        self.program = Some(started?);
        Ok(())
    }

    fn start_server(&mut self, ports: ServerPorts) -> Result<(), Failure> {
        let config = self.state.root().join("nats.conf");
        let prepare = |command: &mut Command| {
            // On loopback alone; in a cluster it is reached by others.
            command
                .args(["--addr", "127.0.0.1", "--cluster", &format!("nats://127.0.0.1:{}", ports.route), "--config"])
                .arg(config)
                .env(NAME_VARIABLE, name_value(SERVER));
        };
        let nats = Process::start("nats-server", &self.programs.nats_server, prepare, &self.output, &self.keeper)?;
        self.nats = Some(nats);
        Ok(())
    }

    fn start_ingress(
        &mut self,
        project: &Project,
        server: ServerPorts,
        [https_port, mqtt_port, admin_port]: [u16; 3],
        spans: u16,
    ) -> Result<(), Failure> {
        let folder = |name: &str| self.state.root().join(name);
        let place = IngressPlace {
            namespace: self.arguments.namespace.clone(),
            broker: "dev".into(),
            servers: server.servers(),
            identity: folder("ingress"),
            topics: folder("topics"),
            volume: folder("events"),
            https_port,
            mqtt_port,
            admin_port,
            monitor: format!("127.0.0.1:{}", server.monitor),
            wake: format!("{HOST}:{}", server.wake),
            certificates: Vec::new(),
        };
        let config = serde_json::to_string(&operator::ingress(&project.broker, place)).map_err(Failure::failed)?;
        let environment = |command: &mut Command| sidecars::environment(command, &config, spans);
        let ingress = Process::start("ingress", &self.programs.ingress, environment, &self.output, &self.keeper)?;
        self.ingress = Some(ingress);
        Ok(())
    }

    /// Waits until a program does what it is there for.
    async fn until(
        &mut self,
        program: impl Fn(&mut Self) -> &mut Option<Process>,
        what: &str,
        mut does: impl AsyncFnMut() -> bool,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        while !does().await {
            self.check_programs().await?;
            let how = program(self).as_mut().and_then(Process::try_ended);
            if how.is_some() || began.elapsed() > START {
                let how = how.unwrap_or_else(|| "it did not get ready".into());
                return Err(self.ended(what, &how).await);
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}
