//! Carries TCP connections from a listener outside to an address of the node.
//!
//! The listener was made in the host's network namespace; each connection's other half is made by a thread that has gone
//! into the node's. A socket stays in the namespace it was made in, so nothing else is needed.

use std::fs::File;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use nix::sched::{CloneFlags, setns};

/// More connections than this wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Accepts for ever, and connects to `target` in the network namespace `network`.
///
/// # Errors
/// A handle of the namespace cannot be shared.
pub fn serve(listener: &TcpListener, network: &File, target: SocketAddr) -> Result<()> {
    let places = Arc::new(Places::new(MAX_CONNECTIONS));
    loop {
        let place = Places::take(&places);
        let outside = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file handles, most likely: others will end.
                eprintln!("forward: accept: {error}");
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let network = network.try_clone()?;
        let carry = move || {
            let _place = place;
            if let Err(error) = connect(&network, target).and_then(|inside| carry(&outside, &inside)) {
                eprintln!("forward: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().name("forward".into()).spawn(carry) {
            eprintln!("forward: no thread: {error}");
        }
    }
}

fn connect(network: &File, target: SocketAddr) -> io::Result<TcpStream> {
    setns(network, CloneFlags::CLONE_NEWNET)?;
    TcpStream::connect_timeout(&target, CONNECT_LIMIT)
}

/// Copies both ways until both have ended.
fn carry(outside: &TcpStream, inside: &TcpStream) -> io::Result<()> {
    outside.set_nodelay(true)?;
    inside.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| copy(outside, inside));
        copy(inside, outside);
    });
    Ok(())
}

/// Copies one way. The end of one side is told to the other; an error ends the whole connection.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let how = if io::copy(&mut from, &mut to).is_ok() { Shutdown::Write } else { Shutdown::Both };
    to.shutdown(how).ok();
    if how == Shutdown::Both {
        from.shutdown(how).ok();
    }
}

/// A counted number of places.
struct Places {
    free: Mutex<usize>,
    freed: Condvar,
}

/// One of them, given back when dropped.
struct Place(Arc<Places>);

impl Places {
    fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), freed: Condvar::new() }
    }

    fn take(places: &Arc<Self>) -> Place {
        let free = places.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = places.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Place(Arc::clone(places))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn both_ways_are_carried_and_the_end_too() {
        let ((mut client, outside), (inside, mut server)) = (pair(), pair());
        let carrier = thread::spawn(move || carry(&outside, &inside));
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        assert_eq!(text, "question");
        server.write_all(b"answer").unwrap();
        drop(server);
        text.clear();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
        carrier.join().unwrap().unwrap();
    }

    #[test]
    fn no_more_places_are_given_than_there_are() {
        let places = Arc::new(Places::new(1));
        let place = Places::take(&places);
        let waiting = Arc::clone(&places);
        let next = thread::spawn(move || drop(Places::take(&waiting)));
        thread::sleep(Duration::from_millis(50));
        assert!(!next.is_finished());
        drop(place);
        next.join().unwrap();
    }
}
