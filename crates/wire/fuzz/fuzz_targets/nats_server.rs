#![no_main]

#[path = "../checks/nats_server.rs"]
mod checks;

use libfuzzer_sys::fuzz_target;

// The first bytes say in which pieces the others come.
fuzz_target!(|input: &[u8]| {
    let (pieces, bytes) = input.split_at(input.len().min(8));
    checks::check(bytes, &pieces.iter().map(|piece| usize::from(*piece)).collect::<Vec<_>>());
});
