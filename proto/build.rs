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
    // For code that has to know all methods and frames, such as the table of which role may call
    // which method.
    let bytes = prost::Message::encode_to_vec(&descriptors);
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), bytes)?;
    tonic_prost_build::configure()
        .bytes(".")
        // Ordered, so that one message has one encoding.
        .btree_map(".")
        .build_transport(false)
        // What a later version may send can be tried with it.
        .codec_path("crate::WireCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
