//! How `tidegate dev` ends, and that nothing is left of it then.

use std::net::{Ipv4Addr, TcpListener};

use nix::sys::signal::Signal;
use tidegate_test_broker::free_port;

use crate::support::{Project, handler, topic};

fn project() -> (Project, u16) {
    let port = free_port();
    (Project::new(&(topic() + &handler("billing", port, ""))), port)
}

#[test]
fn the_program_gets_the_handlers_port_and_ends_with_everything_else() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let (project, port) = project();
        // One that starts another one, and does not end when it is asked to.
        let script = "trap '' TERM; sleep 300 & echo \"port $PORT\"; printf '\\033[2Jbad\\n'; wait; sleep 300";
        let dev = project.ready(&["--", "/bin/sh", "-c", script]);
        dev.until(&format!("sh | port {port}"));
        dev.until("sh |  [2Jbad");
        assert!(project.processes().len() >= 4, "{:?}", project.processes());
        assert!(dev.terminate(signal).success());
        project.until_nothing_is_left();
    }
}

#[test]
fn a_program_that_ends_at_once_ends_all_with_a_sentence() {
    let (project, _) = project();
    let mut dev = project.dev(&["--", "/bin/sh", "-c", "echo why; exit 7"]);
    assert_eq!(dev.end().code(), Some(3));
    dev.until("sh | why");
    dev.until_line(&["ended (exit code 7)", "run it by itself"]);
    project.until_nothing_is_left();
    let mut dev = project.dev(&["--", "/nowhere/at/all"]);
    assert_eq!(dev.end().code(), Some(2));
    dev.until("/nowhere/at/all");
    project.until_nothing_is_left();
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let (project, port) = project();
    let used = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let mut dev = project.dev(&["--", "/bin/sleep", "300"]);
    assert_eq!(dev.end().code(), Some(1));
    dev.until_line(&[&format!("port {port} is in use"), "handler billing", "--port billing="]);
    let mut dev = project.dev(&[&format!("--http={port}")]);
    assert_eq!(dev.end().code(), Some(1));
    dev.until_line(&[&format!("port {port} of --http"), "--http=PORT"]);
    project.until_nothing_is_left();
    drop(used);
}

#[test]
fn nothing_is_left_even_if_it_is_killed() {
    let (project, _) = project();
    let mut dev = project.ready(&["--", "/bin/sleep", "300"]);
    dev.signal(Signal::SIGKILL);
    dev.end();
    project.until_nothing_is_left();
    // And the next run has all of it.
    drop(project.ready(&[]));
}

#[test]
fn two_runs_of_one_project_are_one_too_many() {
    let (project, _) = project();
    let first = project.ready(&[]);
    let mut second = project.dev(&[]);
    assert_eq!(second.end().code(), Some(1));
    second.until_line(&["another tidegate dev", "--state"]);
    drop(first);
}

#[test]
fn a_wrong_file_is_named() {
    let project = Project::new("kind: [");
    let mut dev = project.dev(&[]);
    assert_eq!(dev.end().code(), Some(2));
    dev.until("all.yaml");
    project.write(&topic().replace("metadata", "metadaten"));
    let mut dev = project.dev(&[]);
    assert_eq!(dev.end().code(), Some(2));
    project.write(&topic().replace("spec: {}", "spec: {retension: {}}"));
    let mut dev = project.dev(&[]);
    assert_eq!(dev.end().code(), Some(2));
    dev.until("spec.retension is not a field");
}
