//! The `sestina` binary; everything it does is in the library of this package.

use std::process::ExitCode;

/// Many threads free what others allocated; jemalloc gives it back to the system.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    sestina::cli::main()
}
