//! Makes Rust of the interface's definition.

fn main() -> std::io::Result<()> {
    // The server's side too: the test driver is one.
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_protos(&["proto/csi.proto", "proto/registration.proto"], &["proto"])
}
