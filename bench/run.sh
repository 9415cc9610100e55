#!/usr/bin/env bash
# Measures zoogate beside HAProxy, nginx and Pingora, and writes the figures into docs/performance.md.
#   bench/run.sh [--quick] [--rounds N] [--seconds N] [--keep-document] [SCENARIO]...      (all of them when none is named)
# small post big h2 conn grpc log: CPU a request under full load, rounds interleaved.
# latency churn idle scaling hash cold: the rest.
# Takes about twenty minutes, and wants two cores that nobody else uses: one for the proxies, one for load and origins.
# --quick takes two, shows that everything works, and leaves the document alone.
# ZOOGATE=FILE measures that binary instead of building one.
# BENCH_PINGORA=0 leaves Pingora out; it takes minutes to build, and is left out anyway where it takes over BENCH_PINGORA_MINUTES (15).
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
export BENCH_RUN=${BENCH_RUN:-$here/../target/bench}
mkdir -p "$BENCH_RUN"
BENCH_RUN=$(readlink -f "$BENCH_RUN")

missing=()
command -v haproxy >/dev/null || [ -x /usr/sbin/haproxy ] || missing+=(haproxy)
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing+=(nginx)
command -v wrk >/dev/null || missing+=(wrk)
command -v h2load >/dev/null || missing+=(nghttp2-client)
command -v python3 >/dev/null || missing+=(python3)
command -v taskset >/dev/null || missing+=(util-linux)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
# Pingora builds zlib-ng.
[ "${BENCH_PINGORA:-1}" = 0 ] || [ -x "$BENCH_RUN/build/release/bench-pingora" ] || command -v cmake >/dev/null || missing+=(cmake g++)
if [ ${#missing[@]} -gt 0 ]; then
  as=(); [ "$(id -u)" = 0 ] || as=(sudo -n)
  "${as[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${as[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || {
    echo "install: ${missing[*]}" >&2; exit 1; }
fi
export PATH=$PATH:/usr/sbin

build() { CARGO_TARGET_DIR=$BENCH_RUN/build ${2:-} cargo build --release --quiet --manifest-path "$here/$1/Cargo.toml"; }
build origin
if [ "${BENCH_PINGORA:-1}" = 0 ]; then
  rm -f "$BENCH_RUN/build/release/bench-pingora"
elif [ ! -x "$BENCH_RUN/build/release/bench-pingora" ]; then
  build pingora "timeout ${BENCH_PINGORA_MINUTES:-15}m" || echo "Pingora does not build here, or not in time: left out" >&2
fi
if [ -z "${ZOOGATE:-}" ]; then
  target=${CARGO_TARGET_DIR:-$here/../target}
  cargo build --profile dist --quiet --locked --manifest-path "$here/../Cargo.toml"
  ZOOGATE=$(readlink -f "$target/dist/zoogate")
fi
export ZOOGATE
exec python3 "$here/main.py" "$@"
