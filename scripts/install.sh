#!/usr/bin/env bash
# Installs keelson on this machine and starts it; run again with newer programs, it upgrades, and pods don't notice.
#   install.sh [server] [FLAGS...]                        a new cluster
#   install.sh agent --server URL --token TOKEN [FLAGS...]   a node of one that is there (`keelson token create`, there)
#   install.sh --uninstall [--packages]                   away with it; with --packages what came from the distribution too
# and with any of these:
#   --airgap FOLDER   nothing comes from a network: programs, images/ (archives that are imported at each start) and
#                     packages/ (*.deb, where the machine lacks some) are in FOLDER
#   --bin FOLDER      where the programs are [default: beside this script; in a checkout they are built]
#   --no-start        all but setting up and starting: `keelson-setup` does that later
# Also by environment: KEELSON_URL, KEELSON_TOKEN, KEELSON_EXEC (role and flags), KEELSON_BIN (as --bin).
# /etc/keelson/config.yaml has any flag by its name, and more (`keelson server --help`).
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/node/lib.sh"

bin=${KEELSON_BIN:-} airgap='' start=1 uninstall=0 rest=()

usage() { sed -n '2,/^set /s/^# \?//p' "$0" | grep -v '^set '; }

parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      --airgap | --bin) [ -d "${2:-}" ] || die "$1 needs a folder"; if [ "$1" = --bin ]; then bin=$2; else airgap=$2; fi; shift ;;
      --no-start) start=0 ;;
      --uninstall) uninstall=1 ;;
      -h | --help) usage; exit ;;
      *) rest+=("$1") ;;
    esac
    shift
  done
}

# Sets `bin`.
find_programs() {
  if [ -n "$airgap" ]; then bin=$airgap; fi
  if [ -z "$bin" ] && [ -x "$here/keelson" ]; then bin=$here; fi
  if [ -z "$bin" ]; then
    [ -f "$here/../Cargo.toml" ] || die "no programs beside this script: --bin FOLDER says where they are"
    . "$here/lib.sh"
    # shellcheck disable=SC2086
    install_packages $build_packages
    need_cargo
    say "building a release (the first time takes some minutes)"
    build release
  fi
  local p
  for p in $programs; do [ -f "$bin/$p" ] || die "$bin has no $p"; done
}

# Remembers in before.packages what was not there.
get_packages() {
  local missing
  # shellcheck disable=SC2086
  missing=$(missing_packages $node_packages)
  [ -n "$missing" ] || return 0
  # shellcheck disable=SC2086
  if [ -z "$airgap" ]; then
    install_packages $node_packages
  elif compgen -G "$airgap/packages/*.deb" >/dev/null; then
    say "installing from $airgap/packages"
    DEBIAN_FRONTEND=noninteractive dpkg --install --skip-same-version "$airgap"/packages/*.deb >/dev/null
    missing=$missing$'\n'$(for p in "$airgap"/packages/*.deb; do dpkg-deb -f "$p" Package; done)
  else
    die "this machine lacks packages: ${missing//$'\n'/ }; put them into $airgap/packages, or install without --airgap"
  fi
  mkdir -p "$data"
  sort -u <<<"$missing" | cat - "$data/before.packages" 2>/dev/null >"$data/.packages" || true
  mv "$data/.packages" "$data/before.packages"
}

# Archives of the folder go where the agent imports from.
get_images() {
  local archive
  [ -n "$airgap" ] && [ -d "$airgap/images" ] || return 0
  mkdir -p "$data/images"
  for archive in "$airgap"/images/*; do
    [ -f "$archive" ] || continue
    put 644 "$archive" "$data/images/$(basename "$archive")"
  done
}

parse "$@"
need_root
[ $uninstall = 0 ] || KEELSON_LIB=$lib exec "$here/node/uninstall" ${rest[@]+"${rest[@]}"}
[ ! -e /usr/lib/keelson/keelson ] || die "keelson is a package here: apt-get install ./keelson_VERSION.deb upgrades it, keelson-setup sets it up"
find_programs
get_packages
remember
changed=0
put_files "$bin"
get_images
say "$("$lib/keelson" --version) is in $lib: $(for p in $programs; do printf '%s %s MB, ' "$p" "$(du -m "$lib/$p" | cut -f1)"; done | sed 's/, $//')"
[ $start = 1 ] || exit 0
KEELSON_CHANGED=$changed exec "$lib/setup" ${rest[@]+"${rest[@]}"}
