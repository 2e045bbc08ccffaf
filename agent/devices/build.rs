//! Makes Rust of the interfaces' definitions.

fn main() -> std::io::Result<()> {
    // Both sides of both: we are the one, tests are the other.
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_protos(
            &["proto/deviceplugin.proto", "proto/podresources.proto"],
            &["proto"],
        )
}
