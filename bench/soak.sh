#!/usr/bin/env bash
# An hour of everything: HTTP/1.1, HTTP/2, gRPC and WebSocket at once, instances below `zoogate register` in an ensemble of three
# ZooKeeper servers, and every 20 seconds a fault of an instance, its registration, the ensemble or the configuration.
#   bench/soak.sh [--minutes N] [--rate N] [--seed N] [--keep]
# Prints a line a minute, then Markdown tables and one line that sums up. Each request has an id that client and instances log; the
# histories are compared at the end. Exits with 1 where an answer was wrong, something arrived twice, the gateway panicked or grew.
# ZOOGATE=FILE runs that binary instead of building one.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
target=${CARGO_TARGET_DIR:-$here/../target}
missing=()
[ -e /usr/share/java/zookeeper.jar ] || missing+=(zookeeper)
[ -e /usr/share/java/slf4j-simple.jar ] || missing+=(libslf4j-java)
command -v java >/dev/null || missing+=(default-jre-headless)
command -v setpriv >/dev/null || missing+=(util-linux)
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3 python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
  as=(); [ "$(id -u)" = 0 ] || as=(sudo -n)
  "${as[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${as[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
python=$target/tools/venv/bin/python
if ! "$python" -c 'import kazoo, grpc, websockets, h2' 2>/dev/null; then
  mkdir -p "$target/tools"
  [ -x "$python" ] || python3 -m venv "$target/tools/venv"
  "$target/tools/venv/bin/pip" -q --disable-pip-version-check install 'kazoo==2.10.*' 'grpcio>=1.60,<2' 'websockets>=15,<16' 'h2>=4,<5'
fi
if [ -z "${ZOOGATE:-}" ]; then
  cargo build --release --quiet --locked --manifest-path "$here/../Cargo.toml"
  ZOOGATE=$(readlink -f "$target/release/zoogate")
fi
export ZOOGATE
exec "$python" "$here/soak.py" "$@"
