#!/usr/bin/env bash
# What clients notice while instances die, hang, restart or refuse, beside HAProxy and nginx with the same instances.
#   bench/faults.sh [--seconds N] [--rate N] [--seed N] [ROW]...     rows: kill stop restart unavailable (all when none is named)
# Prints one Markdown table. Each request has an id that client and instances log; the two histories are compared afterwards.
# ZOOGATE=FILE measures that binary instead of building one.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
export PATH=$PATH:/usr/sbin
missing=()
for tool in haproxy nginx python3; do command -v $tool >/dev/null || missing+=($tool); done
if [ ${#missing[@]} -gt 0 ]; then
  as=(); [ "$(id -u)" = 0 ] || as=(sudo -n)
  "${as[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${as[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
if [ -z "${ZOOGATE:-}" ]; then
  cargo build --release --quiet --locked --manifest-path "$here/../Cargo.toml"
  ZOOGATE=$(readlink -f "${CARGO_TARGET_DIR:-$here/../target}/release/zoogate")
fi
export ZOOGATE
exec python3 "$here/faults.py" "$@"
