//! Exit codes, nothing else.

use std::process::ExitCode;

/// A request allocates a dozen times; the C library's allocator would take a tenth of our time for it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    zoogate::cli::main()
}
