#!/usr/bin/env bash
# What others notice of a thousand clients that send their heads or bodies slowly, or take their answers slowly.
#   bench/slow.sh [--seconds N] [--connections N]
# Prints one Markdown table. slowhttptest makes the clients; a neighbour asks for something small every 10 ms meanwhile.
# ZOOGATE=FILE measures that binary instead of building one.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
if ! command -v slowhttptest >/dev/null; then
  as=(); [ "$(id -u)" = 0 ] || as=(sudo -n)
  "${as[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${as[@]}" apt-get install -y -qq --no-install-recommends slowhttptest >/dev/null
fi
if [ -z "${ZOOGATE:-}" ]; then
  cargo build --release --quiet --locked --manifest-path "$here/../Cargo.toml"
  ZOOGATE=$(readlink -f "${CARGO_TARGET_DIR:-$here/../target}/release/zoogate")
fi
export ZOOGATE
exec python3 "$here/slow.py" "$@"
