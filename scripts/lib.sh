# Shared by the scripts beside it; sourced, not run.
# shellcheck shell=bash disable=SC2034

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top" || exit
export PATH="$PATH:${HOME:-/root}/.cargo/bin"

# shellcheck source-path=SCRIPTDIR source=node/lib.sh
. scripts/node/lib.sh

# To run, with the demo.
packages="$node_packages busybox-static curl"
# To build; a compiler too, should the toolchain have come without.
build_packages="protobuf-compiler libnftnl-dev libmnl-dev pkg-config gcc libc6-dev"
# What tests use beside that: peers, real things to test against, machines (scripts/vm).
test_packages="containernetworking-plugins docker-registry skopeo socat util-linux netcat-openbsd dnsmasq-base mmdebstrap podman qemu-system-x86 vagrant shellcheck"

# Installs what is missing of the packages named, and a kubectl.
install_packages_and_kubectl() {
  local kubectl=kubernetes-client
  if command -v kubectl >/dev/null; then kubectl=; fi
  install_packages "$@" $kubectl
}

need_cargo() {
  command -v cargo >/dev/null || die "no cargo: a Rust toolchain is needed (rustup or Debian's), at least $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -1)"
}

# build PROFILE: all binaries, into $bin. Those that run in other file systems, or thousands of times, are static.
build() {
  local profile=$1 dir=$1 target=${CARGO_TARGET_DIR:-$top/target} p
  [ "$profile" = dev ] && dir=debug
  bin=$target/$dir
  cargo build --locked --profile "$profile" --bins
  for p in keelson-logger keelson-echo; do build_static "$profile" "$p"; done
  if [ "$profile" = dev ]; then
    build_static dev keelson-cni
  else
    build_static plugin keelson-cni
    cp --remove-destination "$target/plugin/keelson-cni" "$bin/"
  fi
}

# Not to be moved in memory, so that nothing has to be relocated at each start.
build_static() {
  cargo rustc --locked --profile "$1" -p "$2" --bin "$2" -- -C target-feature=+crt-static -C relocation-model=static
}
