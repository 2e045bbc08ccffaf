# What becomes of a machine that is a node: files, the service, and the way back. Sourced, not run, by scripts of a
# checkout or a release, and by those beside it where keelson is installed.
# shellcheck shell=bash disable=SC2034

export PATH="$PATH:/usr/sbin:/sbin"
data=/var/lib/keelson
run=/run/keelson
etc=/etc/keelson
# Where the programs are, and which folder has links to them; a package has other places.
: "${lib:=/usr/local/lib/keelson}"
bindir=${lib%/lib/keelson}/bin
units=/etc/systemd/system
settings=$etc/keelson.env
kubeconfig=$etc/admin.kubeconfig
parts=$(dirname "${BASH_SOURCE[0]}")

programs="keelson keelson-cni keelson-logger"
# What a node needs of the distribution.
node_packages="containerd runc iptables nftables conntrack iproute2 kmod procps"

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "run as root"; }

# missing_packages NAME...: those that are not installed, one a line.
missing_packages() {
  local p
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || echo "$p"
  done
}

# Installs what is missing of the packages named, and says what.
install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  if [ ${#missing[@]} -eq 0 ]; then return 0; fi
  say "installing from the distribution: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
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

# What is changed here is written down first, so that uninstall can put it back.
remember() {
  mkdir -p "$data" "$run" "$etc"
  chmod 700 "$data" "$etc"
  if [ ! -f "$data/before.tables" ]; then
    for s in net.ipv4.ip_forward net.ipv4.conf.all.route_localnet net.ipv6.conf.all.forwarding \
      net.bridge.bridge-nf-call-ip{,6}tables net.netfilter.nf_conntrack_max \
      net.netfilter.nf_conntrack_tcp_timeout_{established,close_wait}; do
      [ -e "/proc/sys/${s//.//}" ] && echo "/proc/sys/${s//.//}=$(cat "/proc/sys/${s//.//}")"
    done >"$data/before.sysctl"
    # Where IPv6 is forwarded, links go on taking router advertisements only if they say so.
    for s in /proc/sys/net/ipv6/conf/*/accept_ra; do
      if [ -e "$s" ]; then echo "$s=$(cat "$s")"; fi
    done >>"$data/before.sysctl"
    # The proxy loads it, so that packets between pods of the bridge meet rules.
    [ -e /proc/sys/net/bridge ] || echo br_netfilter >"$data/before.modules"
    for d in /opt/cni/bin /opt/cni /etc/cni/net.d /etc/cni /var/log/pods /var/lib/cni \
      {/run,/var/lib}/containerd/io.containerd.runtime.v2.task/k8s.io /run/containerd/runc/k8s.io /run/containerd; do
      [ -e "$d" ] || echo "$d"
    done >"$data/before.missing"
    nft list tables >"$data/before.tables" 2>/dev/null || true
  fi
}

# put MODE FROM TO: sets `changed` to 1 when the file is another than before. What runs goes on with the old one.
put() {
  cmp -s "$2" "$3" && return
  local new
  new=$(dirname "$3")/.new.$(basename "$3")
  install -D -m "$1" "$2" "$new"
  mv "$new" "$3"
  changed=1
}

# The unit of a role.
unit() { if [ "$1" = agent ]; then echo keelson-agent; else echo keelson; fi; }

# put_files FROM [ROOT]: programs of the folder FROM, what is beside this file, and units, below ROOT.
put_files() {
  local from=$1 root=${2:-} file role
  for file in $programs; do put 755 "$from/$file" "$root$lib/$file"; done
  for file in lib.sh setup uninstall supervise; do put 755 "$parts/$file" "$root$lib/$file"; done
  if [ -n "$root" ] || under_systemd; then
    for role in server agent; do
      sed -e "s#@LIB@#$lib#; s#@ROLE@#$role#" "$parts/unit" >"$root$lib/.unit"
      put 644 "$root$lib/.unit" "$root$units/$(unit $role).service"
      rm "$root$lib/.unit"
    done
  fi
  mkdir -p "$root$bindir"
  ln -sfn "$lib/keelson" "$root$bindir/keelson"
  ln -sfn "$lib/setup" "$root$bindir/keelson-setup"
  ln -sfn "$lib/uninstall" "$root$bindir/keelson-uninstall"
}

# Sets `socket`: of the containerd that runs, or else of one of our own.
start_containerd() {
  socket=/run/containerd/containerd.sock
  if under_systemd && ! shared_containerd; then
    systemctl enable -q --now containerd 2>/dev/null || true
    for _ in $(seq 300); do shared_containerd && break; sleep 0.1; done
  fi
  if shared_containerd; then
    say "sharing the containerd that runs here"
    return
  fi
  socket=$run/containerd/containerd.sock
  alive "$run/containerd.pid" && return
  say "starting a containerd of our own"
  mkdir -p "$data/containerd" "$run/containerd"
  cat >"$data/containerd.toml" <<TOML
version = 2
root = "$data/containerd"
state = "$run/containerd"
# Nobody here speaks CRI: the agent uses containerd's own API.
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$socket"
TOML
  setsid "$lib/supervise" containerd containerd --config "$data/containerd.toml" </dev/null >/dev/null 2>&1 &
  for _ in $(seq 100); do [ -S "$socket" ] && return; sleep 0.1; done
  die "containerd does not start: see $data/containerd.log"
}

# The role that this machine has, if it has one.
role_now() { [ ! -f "$settings" ] || sed -n 's/^KEELSON_ROLE="\(.*\)"$/\1/p' "$settings"; }

# start_role ROLE RESTART: as a service of systemd, or else supervised until the machine goes off.
start_role() {
  local role=$1 restart=$2 name
  name=$(unit "$role")
  if under_systemd; then
    systemctl daemon-reload
    systemctl enable -q "$name"
    if [ "$restart" = 1 ]; then systemctl restart "$name"; else systemctl start "$name"; fi
    return
  fi
  if alive "$run/$role.pid"; then
    [ "$restart" = 1 ] || return 0
    stop "$run/$role.pid"
  fi
  # shellcheck disable=SC2016
  setsid "$lib/supervise" "$role" bash -c 'set -a; . "$1"; exec "$2" "$KEELSON_ROLE" $KEELSON_FLAGS' - "$settings" "$lib/keelson" </dev/null >/dev/null 2>&1 &
  for _ in $(seq 100); do alive "$run/$role.pid" && return; sleep 0.1; done
  die "keelson $role is not supervised: is $run writable?"
}
