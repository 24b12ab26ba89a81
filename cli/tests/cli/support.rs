//! What the tests share: a handler in this process, and `tidegate` as a process.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tidegate_test_broker::{LIMIT, free_port};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate");

/// An event as a handler got it.
#[derive(Clone, Debug)]
pub struct Received {
    pub id: String,
    pub path: String,
    pub query: String,
    pub attempt: String,
    pub body: String,
}

/// A handler that keeps what it gets.
pub struct Handler {
    pub port: u16,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Handler {
    /// One that answers as the function says: a status, and the headers and body of an event.
    pub async fn answering(answer: impl Fn(&Received) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        let (port, received) = (free_port(), Arc::new(Mutex::new(Vec::new())));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let (kept, answer) = (Arc::clone(&received), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                let service = service_fn(move |request| {
                    let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                    async move {
                        let received = receive(request).await;
                        let response = answer(&received);
                        kept.lock().unwrap().push(received);
                        Ok::<_, Infallible>(response)
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(async move { connection.serve_connection(TokioIo::new(stream), service).await });
            }
        });
        Self { port, received }
    }

    /// One that takes everything.
    pub async fn start() -> Self {
        Self::answering(|_| status(204)).await
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

pub fn status(code: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code.try_into().unwrap();
    response
}

async fn receive(request: Request<Incoming>) -> Received {
    let header = |name: &str| request.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let (id, attempt) = (header("ce-id"), header("ce-tidegateattempt"));
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Received { id, path, query, attempt, body: String::from_utf8_lossy(&body).into_owned() }
}

/// A topic `orders`.
pub fn topic() -> String {
    "apiVersion: tidegate.io/v1alpha1\nkind: EventTopic\nmetadata: {name: orders}\nspec: {}\n".to_owned()
}

/// A handler of it on this port, with this delivery.
pub fn handler(name: &str, port: u16, more: &str) -> String {
    format!(
        "---\napiVersion: tidegate.io/v1alpha1\nkind: EventHandler\nmetadata: {{name: {name}}}\nspec:\n  topic: orders\n  \
         template: {{spec: {{containers: [{{name: a, image: a, ports: [{{containerPort: {port}}}]}}]}}}}\n{more}"
    )
}

/// Where a project is: a folder of YAML, and one for its state.
pub struct Project {
    folder: TempDir,
}

impl Project {
    pub fn new(yaml: &str) -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        project.write(yaml);
        project
    }

    pub fn write(&self, yaml: &str) {
        // In one step, as an editor does it.
        let new = self.folder.path().join("new");
        std::fs::write(&new, yaml).unwrap();
        std::fs::rename(new, self.yaml()).unwrap();
    }

    fn yaml(&self) -> PathBuf {
        self.folder.path().join("all.yaml")
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Starts `tidegate dev`.
    pub fn dev(&self, arguments: &[&str]) -> Dev {
        let mut command = Command::new(PROGRAM);
        command.arg("dev").arg(self.yaml()).arg("--state").arg(self.state()).args(arguments);
        Dev::start(command)
    }

    /// The same, and waits until it is ready.
    pub fn ready(&self, arguments: &[&str]) -> Dev {
        let dev = self.dev(arguments);
        dev.until("ready after");
        dev
    }

    /// Runs `tidegate send` to what runs here.
    pub fn send(&self, arguments: &[&str]) -> Output {
        let state: &OsStr = self.state().as_os_str().to_owned().leak();
        let arguments = arguments.iter().map(OsStr::new);
        let all = ["send".as_ref(), "orders".as_ref(), "--state".as_ref(), state].into_iter().chain(arguments);
        Command::new(PROGRAM).args(all).stdin(Stdio::null()).output().unwrap()
    }

    /// The same, which works, and what it says.
    pub fn sent(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.send(&[arguments, &["-o", "json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The processes that have something to do with this project.
    pub fn processes(&self) -> Vec<String> {
        let state = self.state().display().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        let mentions = |path: &Path| {
            let read = |name: &str| std::fs::read(path.join(name)).unwrap_or_default();
            let text = [read("cmdline"), read("environ")].concat();
            String::from_utf8_lossy(&text)
                .contains(&state)
                .then(|| String::from_utf8_lossy(&read("cmdline")).replace('\0', " "))
        };
        entries.filter_map(|path| mentions(&path)).collect()
    }

    /// Waits until there are none.
    pub fn until_nothing_is_left(&self) {
        let begun = Instant::now();
        while !self.processes().is_empty() {
            assert!(begun.elapsed() < LIMIT, "left: {:?}", self.processes());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A running `tidegate dev` or `tidegate console`. Dropped, it is ended.
pub struct Dev {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Dev {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), Arc::clone(&lines));
        collect(child.stderr.take().unwrap(), Arc::clone(&lines));
        Self { child, lines }
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a line that has all of these, and answers with it.
    pub fn until_line(&self, parts: &[&str]) -> String {
        let begun = Instant::now();
        loop {
            let found = self.lines().into_iter().find(|line| parts.iter().all(|part| line.contains(part)));
            if let Some(found) = found {
                return found;
            }
            assert!(begun.elapsed() < LIMIT, "no line with {parts:?}:\n{}", self.lines().join("\n"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn until(&self, part: &str) -> String {
        self.until_line(&[part])
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "it does not end:\n{}", self.lines().join("\n"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it as a terminal or a supervisor does.
    pub fn terminate(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.end()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGTERM);
            let begun = Instant::now();
            while begun.elapsed() < LIMIT && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn collect(from: impl std::io::Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    });
}

/// The answer to a request that is written as it is.
pub fn raw(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
