//! Compiles `proto/*.proto` with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["proto/metadata.proto", "proto/quorum.proto", "proto/controller.proto"];
    let set = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(set)?;
    Ok(())
}
