//! A way to a broker that can be shut.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::TestBroker;

/// Where clients meet a broker's first server: it can be shut, and counts who comes.
pub struct Door {
    /// `tls://localhost:port`
    pub address: String,
    passage: watch::Sender<Passage>,
    knocks: Arc<AtomicUsize>,
    /// One for each connection that passes.
    passes: Arc<()>,
    task: AbortHandle,
}

/// Who passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    Everyone,
    NoOne,
    /// Those that have passed already, but for this port of the server's other side.
    AllBut(u16),
}

impl Door {
    /// Opens one.
    pub async fn of(broker: &TestBroker) -> Self {
        let server = broker.servers()[0].replace("tls://", "");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = format!("tls://localhost:{}", listener.local_addr().expect("address").port());
        let passage = watch::Sender::new(Passage::Everyone);
        let (knocks, passes): (Arc<AtomicUsize>, _) = (Arc::default(), Arc::new(()));
        let (seen, counted, pass) = (passage.subscribe(), Arc::clone(&knocks), Arc::clone(&passes));
        let task = tokio::spawn(async move {
            while let Ok((here, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                // Who comes to a shut door is sent away at once.
                if *seen.borrow() == Passage::Everyone {
                    tokio::spawn(carry(here, server.clone(), seen.clone(), Arc::clone(&pass)));
                }
            }
        });
        Self { address, passage, knocks, passes, task: task.abort_handle() }
    }

    /// Opens it for all, or shuts it: then all connections end too.
    pub fn set_open(&self, is_open: bool) {
        self.passage.send_replace(if is_open { Passage::Everyone } else { Passage::NoOne });
    }

    /// Ends the connection that the server has with this port, and shuts the door: the others continue.
    pub fn keep_out(&self, port: u16) {
        self.passage.send_replace(Passage::AllBut(port));
    }

    /// How many connections pass it now.
    pub fn passing(&self) -> usize {
        // The door has one, and so has what lets them in.
        Arc::strong_count(&self.passes) - 2
    }

    /// Who came since the last time.
    pub fn take_knocks(&self) -> usize {
        self.knocks.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
        // So do those that it let in.
        self.set_open(false);
    }
}

/// Carries a connection as long as it may pass.
async fn carry(mut here: TcpStream, server: String, mut passage: watch::Receiver<Passage>, _pass: Arc<()>) {
    let Ok(mut there) = TcpStream::connect(server).await else { return };
    let port = there.local_addr().expect("address").port();
    tokio::select! {
        biased;
        // An error: the door is gone.
        _ = passage.wait_for(|passage| matches!(passage, Passage::NoOne) || *passage == Passage::AllBut(port)) => {}
        _ = tokio::io::copy_bidirectional(&mut here, &mut there) => {}
    }
}
