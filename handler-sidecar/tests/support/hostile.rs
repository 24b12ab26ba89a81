//! A user's container that does not behave: what it does to a connection once a request is there.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

#[derive(Clone, Debug)]
pub enum Misdeed {
    /// Writes this and closes the connection.
    Says(&'static str),
    /// Writes this, and then bytes of a body until somebody closes.
    Floods(&'static str),
    /// Writes this again and again, with such pauses.
    Repeats(&'static str, Duration),
    /// Writes this for each request, and keeps the connection.
    Answers(&'static str),
    /// Ends the connection by a reset.
    Resets,
    /// Answers one request of a connection, and closes it in silence when the next one comes.
    AnswersOnce,
    /// Does nothing at all.
    Sleeps,
}

pub struct Hostile {
    pub port: u16,
    misdeed: Arc<Mutex<Misdeed>>,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Hostile {
    pub async fn start(misdeed: Misdeed) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let misdeed = Arc::new(Mutex::new(misdeed));
        let task = tokio::spawn({
            let (misdeed, requests) = (misdeed.clone(), requests.clone());
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let misdeed = misdeed.lock().unwrap().clone();
                    tokio::spawn(serve(stream, misdeed, requests.clone()));
                }
            }
        });
        Self { port, misdeed, requests, task }
    }

    /// From now on, on new connections.
    pub fn behave(&self, misdeed: Misdeed) {
        *self.misdeed.lock().unwrap() = misdeed;
    }

    /// The requests so far, as they came. (A probe of the listener sends none.)
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn note(requests: &Mutex<Vec<String>>, request: &[u8]) {
    requests.lock().unwrap().push(String::from_utf8_lossy(request).into_owned());
}

async fn serve(mut stream: TcpStream, misdeed: Misdeed, requests: Arc<Mutex<Vec<String>>>) {
    let mut head = vec![0; 64 * 1024];
    let Ok(read @ 1..) = stream.read(&mut head).await else { return };
    note(&requests, &head[..read]);
    match misdeed {
        Misdeed::Says(text) => {
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
            // A close with unread bytes would be a reset, which could overtake what was written.
            while matches!(stream.read(&mut head).await, Ok(1..)) {}
        }
        Misdeed::Floods(text) => {
            let _ = stream.write_all(text.as_bytes()).await;
            while stream.write_all(&[b'x'; 64 * 1024]).await.is_ok() {}
        }
        Misdeed::Repeats(text, pause) => {
            while stream.write_all(text.as_bytes()).await.is_ok() {
                sleep(pause).await;
            }
        }
        Misdeed::Answers(text) => loop {
            let _ = stream.write_all(text.as_bytes()).await;
            let Ok(read @ 1..) = stream.read(&mut head).await else { return };
            note(&requests, &head[..read]);
        },
        Misdeed::AnswersOnce => {
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            let Ok(read @ 1..) = stream.read(&mut head).await else { return };
            note(&requests, &head[..read]);
        }
        Misdeed::Resets => {
            let _ = stream.set_zero_linger();
        }
        Misdeed::Sleeps => sleep(Duration::from_secs(60)).await,
    }
}
