//! The API servers of the test binary. An operator sees all of its cluster, so that on one server one test at a time can
//! run one: several servers run several.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{conditions, wait};
use kube::{Client, Config, ResourceExt as _};
use serde_json::{Value, json};

use super::PATIENCE;
use super::pki::Pki;
use super::programs::{self, Program};

/// A cold start beside a compiler takes a while.
const START: Duration = Duration::from_secs(180);

/// An idle one takes a twentieth of a core, and 400 MB.
pub const SERVERS: usize = 3;

/// Each is started by the first test that it is given.
static STARTED: [Server; SERVERS] = [const { Server::new() }; SERVERS];

/// How many tests each has now.
static TESTS: Mutex<[u32; SERVERS]> = Mutex::new([0; SERVERS]);

struct Server {
    config: OnceLock<Config>,
    /// Another API server on the same etcd, which has another key for tokens.
    rotated: OnceLock<Config>,
    parts: OnceLock<Parts>,
}

/// What a further API server is started from.
struct Parts {
    folder: PathBuf,
    etcd: String,
    address: String,
    pki: Pki,
}

/// Whether the servers that are started take down what an operator with a process of its own asks.
static IS_AUDITED: AtomicBool = AtomicBool::new(false);

/// The server of one test: a test has a thread of its own.
struct Place(usize);

thread_local! {
    static PLACE: OnceCell<Place> = const { OnceCell::new() };
}

impl Place {
    fn take() -> Self {
        let mut tests = TESTS.lock().unwrap_or_else(PoisonError::into_inner);
        let (place, count) = tests.iter_mut().enumerate().min_by_key(|(_, count)| **count).expect("there are servers");
        *count += 1;
        Self(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TESTS.lock().unwrap_or_else(PoisonError::into_inner)[self.0] -= 1;
    }
}

/// The number of this test's server. To be asked on the test's own thread: another one would get another server.
pub fn place() -> usize {
    PLACE.with(|place| place.get_or_init(Place::take).0)
}

/// A client of its own for each test: a client's connections belong to the test's runtime.
pub async fn client() -> Client {
    Client::try_from(config()).expect("client")
}

/// How to reach the API server of this test.
pub fn config() -> Config {
    STARTED[place()].config().clone()
}

/// How to reach an API server that has another key for tokens, and the same content.
pub fn rotated_config() -> Config {
    STARTED[place()].rotated().clone()
}

/// The API server of this test, started now, takes down what an operator with a process of its own asks: in this file.
pub fn start_audited() -> PathBuf {
    IS_AUDITED.store(true, Ordering::Relaxed);
    audit_log(&STARTED[place()].parts().folder)
}

/// Starts what makes pods of Deployments, and a node for them. All of it lives as long as the process.
pub async fn run_nodes() {
    let parts = STARTED[place()].parts();
    let kubeconfig = parts.folder.join("kubeconfig");
    let admin = (&parts.pki.client_certificate, &parts.pki.client_key);
    fs::write(&kubeconfig, kubeconfig_of(&parts.address, &parts.pki, admin).to_string()).expect("written");
    keep(move || ((), programs::nodes(&parts.folder, &kubeconfig)));
    let nodes: Api<Node> = Api::all(client().await);
    let room = json!({"cpu": "10k", "memory": "100Ti", "pods": "100k"});
    let node = json!({"metadata": {"name": "kwok"}, "status": {"capacity": room, "allocatable": room}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node).expect("node")).await.expect("node");
    // The controller that would take away the taint of a new node does not run.
    let untainted = Patch::Merge(json!({"spec": {"taints": null}}));
    nodes.patch("kwok", &PatchParams::default(), &untainted).await.expect("node");
}

/// For an operator that has a process of its own: folder and kubeconfig.
pub fn for_process() -> (PathBuf, Value) {
    let parts = STARTED[place()].parts();
    let (certificate, key) = &parts.pki.operator;
    (parts.folder.clone(), kubeconfig_of(&parts.address, &parts.pki, (certificate, key)))
}

/// Certificates and keys of the front proxy's authority: the front proxy's, one that is not, and an administrator's, which
/// another authority has signed.
pub fn front_proxies() -> [(String, String); 3] {
    let pki = &STARTED[place()].parts().pki;
    [pki.front_proxy.clone(), pki.not_front_proxy.clone(), pki.operator.clone()]
}

fn audit_log(folder: &Path) -> PathBuf {
    folder.join("audit.log")
}

impl Server {
    const fn new() -> Self {
        Self { config: OnceLock::new(), rotated: OnceLock::new(), parts: OnceLock::new() }
    }

    fn config(&'static self) -> &'static Config {
        self.config.get_or_init(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let folder = folder().join(place().to_string());
            keep(move || {
                fs::create_dir_all(&folder).expect("folder");
                let pki = Pki::create(&folder);
                let (etcd, etcd_address) = programs::etcd(&folder);
                let audit = IS_AUDITED.load(Ordering::Relaxed).then(|| audit_log(&folder));
                let (api_server, address) =
                    programs::api_server(&folder, &etcd_address, &pki, "tokens", audit.as_deref());
                let mut programs = [etcd, api_server];
                let config = ready(&address, &pki, &mut programs);
                assert!(
                    self.parts.set(Parts { folder, etcd: etcd_address, address, pki }).is_ok(),
                    "there is one etcd"
                );
                (config, programs)
            })
        })
    }

    fn parts(&'static self) -> &'static Parts {
        let _started = self.config();
        self.parts.get().expect("it was started")
    }

    fn rotated(&'static self) -> &'static Config {
        self.rotated.get_or_init(|| {
            let parts = self.parts();
            keep(|| {
                let folder = parts.folder.join("rotated");
                fs::create_dir_all(&folder).expect("folder");
                let (api_server, address) = programs::api_server(&folder, &parts.etcd, &parts.pki, "rotated", None);
                let mut programs = [api_server];
                (ready(&address, &parts.pki, &mut programs), programs)
            })
        })
    }
}

/// The thread that starts programs lives as long as the process, and they live as long as it.
fn keep<T: Send + 'static, const N: usize>(start: impl FnOnce() -> (T, [Program; N]) + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    let keep = move || {
        let (started, _programs) = start();
        let _ = tell.send(started);
        loop {
            thread::park();
        }
    };
    thread::Builder::new().name("programs".into()).spawn(keep).expect("thread");
    told.recv().expect("a program did not start: its thread has said why")
}

/// Waits until it is ready, and has our definitions.
fn ready(address: &str, pki: &Pki, programs: &mut [Program]) -> Config {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let admin = (&pki.client_certificate, &pki.client_key);
        let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig_of(address, pki, admin)).expect("kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("config");
        let client = Client::try_from(config.clone()).expect("client");
        let started = Instant::now();
        while !is_ready(&client).await {
            programs.iter_mut().for_each(Program::check);
            let last_words = programs.last().map(Program::last_words);
            assert!(started.elapsed() < START, "kube-apiserver is not ready:\n{last_words:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        define(&client).await;
        config
    })
}

async fn is_ready(client: &Client) -> bool {
    let request = http::Request::get("/readyz").body(Vec::new()).expect("request");
    matches!(tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await, Ok(Ok(_)))
}

/// Our definitions, applied as `kubectl apply --server-side` does.
async fn define(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in tidegate_crds::definitions() {
        let name = definition.name_any();
        api.patch(&name, &PatchParams::apply("test"), &Patch::Apply(&definition))
            .await
            .expect("the definition is accepted");
        let established = wait::await_condition(api.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(PATIENCE, established).await.expect("established in time").expect("established");
    }
}

/// For the client with this certificate and key.
fn kubeconfig_of(address: &str, pki: &Pki, (certificate, key): (&String, &String)) -> Value {
    let encoded = |pem: &str| STANDARD.encode(pem);
    json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": address, "certificate-authority-data": encoded(&pki.ca)}}],
        "users": [{"name": "test", "user": {
            "client-certificate-data": encoded(certificate), "client-key-data": encoded(key),
        }}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    })
}

/// A folder named after this process; those of processes that are no more are removed.
fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("operator-api");
        fs::create_dir_all(&parent).expect("folder");
        for old in fs::read_dir(&parent).expect("folder").flatten() {
            if !Path::new("/proc").join(old.file_name()).exists() {
                let _ = fs::remove_dir_all(old.path());
            }
        }
        let folder = parent.join(std::process::id().to_string());
        // A process of the same number, long ago.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("folder");
        folder
    });
    &FOLDER
}
