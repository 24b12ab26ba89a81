//! The program `tidegate`.

#![warn(clippy::print_stderr)]

use std::process::ExitCode;

use clap::Parser as _;
use tidegate_cli::args::{self, Arguments, Command};
use tidegate_cli::failure::Failure;
use tidegate_cli::{check, console, dead, dev, doctor, send, tail, terminal};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The only provider in the tree; that it is set already is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure @ Failure::Closed) => ExitCode::from(failure.code()),
        Err(failure) => {
            terminal::say(&format!("tidegate: {}", terminal::line(&failure.to_string())));
            ExitCode::from(failure.code())
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Dev(arguments) => runtime()?.block_on(dev::run(arguments)),
        Command::Send(arguments) => runtime()?.block_on(send::run(*arguments)),
        Command::Check(arguments) => runtime()?.block_on(check::run(arguments)),
        Command::Doctor(arguments) => runtime()?.block_on(doctor::run(arguments)),
        Command::Tail(arguments) => runtime()?.block_on(tail::run(&arguments)),
        Command::Dead(arguments) => runtime()?.block_on(dead::run(&arguments)),
        Command::Console(arguments) => runtime()?.block_on(console::run(&arguments)),
        Command::Completions { shell } => args::completions(shell),
        Command::Man { folder } => args::man(&folder),
        Command::Keeper => dev::keeper::run(),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(Failure::failed)
}
