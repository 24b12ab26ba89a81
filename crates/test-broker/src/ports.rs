//! Ports for servers that do not exist yet.
//!
//! Between the choice of a port and its use no one else may get it: no connection (the range is below what the kernel
//! gives to those), no other test of this process (each port is given once), and no other process that runs tests. For
//! the last, ports are taken in blocks, and whoever listens on the first port of a block has the block. The kernel
//! takes that port back when the process ends, however it ends.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Below what Linux gives to outgoing connections and to port 0 (`ip_local_port_range`, from 32768): one of those
/// may be taken by any connection of any test between its choice and its use.
const RANGE: Range<u16> = 15_000..29_000;
/// Ports of a block, its first one included.
const BLOCK: u16 = 100;

/// What this process has.
static PORTS: Mutex<Ports> = Mutex::new(Ports { blocks: Vec::new(), unused: 0..0 });

struct Ports {
    /// The first port of each block. They are listened on as long as the process lives.
    blocks: Vec<TcpListener>,
    /// What is left of the last one.
    unused: Range<u16>,
}

/// A port that nothing listens on and that is given to no one else, in this process or in another one. It is never
/// given a second time, so a server may end and start again there.
///
/// # Panics
/// All are taken.
pub fn free_port() -> u16 {
    let mut ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        // A server may still be there that outlived its test.
        if let Some(port) = ports.unused.find(|port| listen(*port).is_some()) {
            return port;
        }
        ports.reserve_block();
    }
}

impl Ports {
    fn reserve_block(&mut self) {
        let blocks = RANGE.step_by(usize::from(BLOCK));
        // Each process begins in another place, so that a block is not needed again as soon as it is free.
        let begin = usize::try_from(std::process::id()).expect("a number of a process") % blocks.len();
        let first =
            blocks.clone().cycle().skip(begin).take(blocks.len()).find_map(|first| Some((first, listen(first)?)));
        let (first, listener) = first.unwrap_or_else(|| panic!("no free block of ports in {RANGE:?}"));
        self.blocks.push(listener);
        self.unused = first + 1..first + BLOCK;
    }
}

fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// More than a block.
    const MANY: usize = 150;
    /// With the places in which they began before there were blocks, two of so many took the same ports.
    const PROCESSES: usize = 24;

    #[test]
    fn no_port_is_given_twice() {
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(|| [(); 50].map(|()| free_port()))).collect();
        let ports: Vec<u16> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 200);
        assert!(ports.iter().all(|port| RANGE.contains(port)));
    }

    #[test]
    fn what_is_in_use_is_passed_over() {
        let port = free_port();
        let _held = listen(port).unwrap();
        let mut ports = Ports { blocks: Vec::new(), unused: port..port + 1 };
        assert_eq!(ports.unused.find(|port| listen(*port).is_some()), None);
        ports.reserve_block();
        assert!(!ports.unused.contains(&port), "its block is taken");
    }

    #[test]
    fn no_process_takes_a_port_of_another() {
        let mut processes: Vec<_> = (0..PROCESSES).map(|_| another_process()).collect();
        let ports: Vec<u16> = processes.iter_mut().flat_map(ports_of).collect();
        assert_eq!(ports.len(), PROCESSES * MANY);
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), PROCESSES * MANY);
        for mut process in processes {
            drop(process.stdin.take());
            assert!(process.wait().unwrap().success());
        }
    }

    /// This program, as it runs the next test only.
    fn another_process() -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "ports::tests::of_another_process"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    fn ports_of(process: &mut Child) -> Vec<u16> {
        let lines = BufReader::new(process.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
        lines.filter_map(|line| line.strip_prefix("port ")?.parse().ok()).take(MANY).collect()
    }

    #[test]
    #[ignore = "another test starts it"]
    fn of_another_process() {
        for _ in 0..MANY {
            writeln!(std::io::stdout(), "\nport {}", free_port()).unwrap();
        }
        // Keeps them until the end of its input.
        std::io::stdin().lines().for_each(drop);
    }
}
