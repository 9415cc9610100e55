#!/usr/bin/env bash
# Runs everything that must hold before a change lands. Each step can be run alone:
#   ./test.sh [setup|format|lint|docs|test|licences]...      (all of them when none is named)
# What a fresh Debian machine lacks is installed where we may (root, or sudo without a password); where we may not,
# the script says what to install and stops.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
TOOLS=${CARGO_TARGET_DIR:-$PWD/target}/tools

say() { printf '\n== %s\n' "$*"; }
die() { printf 'test.sh: %s\n' "$*" >&2; exit 1; }

# Debian packages, each with the file that shows it is there.
packages() {
  [ -e /usr/share/java/zookeeper.jar ] || echo zookeeper
  [ -e /usr/share/java/slf4j-simple.jar ] || echo libslf4j-java
  command -v java >/dev/null || echo default-jre-headless
  # A registrar that is not ours; half a megabyte. The test of it needs javac, for which no JDK is installed.
  [ -e /usr/share/java/curator-x-discovery.jar ] || echo libcurator-discovery-java libcurator-framework-java libcurator-client-java
  command -v curl >/dev/null || echo curl
  command -v promtool >/dev/null || echo prometheus
  command -v cc >/dev/null || echo gcc libc6-dev
  python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3 python3-venv
}

setup() {
  say setup
  command -v cargo >/dev/null || die "no cargo: install Rust 1.90 or newer (https://rustup.rs), then run this again"
  local missing; missing=$(packages | tr '\n' ' ')
  if [ -n "$missing" ]; then
    local as=()
    if [ "$(id -u)" != 0 ]; then
      sudo -n true 2>/dev/null || die "missing Debian packages; as root: apt-get install -y --no-install-recommends $missing"
      as=(sudo -n)
    fi
    command -v apt-get >/dev/null || die "this is no Debian; install what provides: $missing"
    "${as[@]}" apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive "${as[@]}" apt-get install -y -qq --no-install-recommends $missing </dev/null >/dev/null
  fi
  # Clients and servers that are not ours: a registrar (kazoo), both ends of gRPC, and what the benchmarks speak.
  if ! "$TOOLS/venv/bin/python" -c 'import kazoo, grpc, websockets, h2' 2>/dev/null; then
    mkdir -p "$TOOLS"
    python3 -m venv "$TOOLS/venv"
    "$TOOLS/venv/bin/pip" -q --disable-pip-version-check install 'kazoo==2.10.*' 'grpcio>=1.60,<2' 'websockets>=15,<16' 'h2>=4,<5'
  fi
  # Dubbo itself, which is a beta: its test says so where it is missing.
  "$TOOLS/venv/bin/python" -c 'import dubbo' 2>/dev/null ||
    "$TOOLS/venv/bin/pip" -q --disable-pip-version-check install 'apache-dubbo==3.0.0b1' ||
    echo "no apache-dubbo: its part of a test is skipped"
}

format() { say format; cargo fmt --check; }
lint() { say lint; cargo clippy --quiet --all-targets --locked -- -D warnings; }
docs() { say docs; RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps --locked; }
test_() { say test; ZOOGATE_TEST_PYTHON="$TOOLS/venv/bin/python" cargo test --locked --no-fail-fast; }

licences() {
  say licences
  if ! command -v cargo-deny >/dev/null; then
    # Building it takes longer than everything else here together, so a whole run leaves it out and says so.
    [ -n "${whole:-}" ] && { echo "skipped: cargo-deny is not installed (./test.sh licences builds it)"; return; }
    [ -x "$TOOLS/bin/cargo-deny" ] || cargo install --quiet --locked cargo-deny --root "$TOOLS"
    PATH="$TOOLS/bin:$PATH"
  fi
  cargo deny --log-level error check licenses bans sources
}

if [ $# -eq 0 ]; then
  whole=1
  set -- setup format lint docs test licences
fi
for step in "$@"; do
  case $step in
    setup | format | lint | docs | licences) "$step" ;;
    test) test_ ;;
    *) die "no step $step; the steps: setup format lint docs test licences" ;;
  esac
done
