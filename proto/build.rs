//! Compiles the `.proto` files without a `protoc` binary.
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "common.proto",
        "link.proto",
        "peer.proto",
        "state.proto",
        "storage.proto",
        "admin.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
