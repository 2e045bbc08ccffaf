//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Relocations as a bitmap (DT_RELR; glibc 2.36, binutils 2.38 or lld 15): the loader reads every one of them at
    // the start, and written out they were 3 MB of a node's memory.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
