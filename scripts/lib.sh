# Shared by the scripts beside it; sourced, not run.
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top"
export PATH="$PATH:/usr/sbin:/sbin:${HOME:-/root}/.cargo/bin"

data=/var/lib/keelson
run=/run/keelson
etc=/etc/keelson
lib=/usr/local/lib/keelson
kubeconfig=$etc/admin.kubeconfig

# To run.
packages="containerd runc iptables nftables conntrack busybox-static curl iproute2 procps"
# To build; a compiler too, should the toolchain have come without.
build_packages="protobuf-compiler libnftnl-dev libmnl-dev pkg-config gcc libc6-dev"
# What tests use beside that: peers, real things to test against, machines (scripts/vm).
test_packages="containernetworking-plugins docker-registry skopeo socat util-linux netcat-openbsd dnsmasq-base mmdebstrap qemu-system-x86"

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf 'scripts: %s\n' "$*" >&2; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "run as root"; }

# Installs what is missing of the packages named, and says what.
install_packages() {
  local missing=()
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
  done
  command -v kubectl >/dev/null || missing+=(kubernetes-client)
  if [ ${#missing[@]} -eq 0 ]; then return 0; fi
  say "installing from the distribution: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

need_cargo() {
  command -v cargo >/dev/null || die "no cargo: a Rust toolchain is needed (rustup or Debian's), at least $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -1)"
}

# build PROFILE: all binaries, into $bin. Those that run in other file systems, or thousands of times, are static.
build() {
  local profile=$1 dir=$1
  [ "$profile" = dev ] && dir=debug
  bin=${CARGO_TARGET_DIR:-$top/target}/$dir
  cargo build --locked --profile "$profile" --bins
  local p
  for p in keelson-cni keelson-logger keelson-echo; do
    cargo rustc --locked --profile "$profile" -p "$p" --bin "$p" -- -C target-feature=+crt-static
  done
}

under_systemd() { [ -d /run/systemd/system ]; }

# The socket of a containerd that runs here for others, if one does.
shared_containerd() {
  [ -S /run/containerd/containerd.sock ] && ctr -a /run/containerd/containerd.sock version >/dev/null 2>&1
}

alive() { [ -f "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

# stop PIDFILE: ends a process of ours and waits until it is gone.
stop() {
  local pid
  alive "$1" || { rm -f "$1"; return 0; }
  pid=$(cat "$1")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 150); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$1"
}
