//! The `sestina` binary; its code is in the library of this package.

use std::process::ExitCode;

/// Many threads free memory that others allocated; jemalloc returns it to the system.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    sestina::cli::main()
}
