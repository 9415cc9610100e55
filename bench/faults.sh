#!/usr/bin/env bash
# What clients notice while instances die, hang, restart or refuse, beside HAProxy and nginx with the same instances.
#   bench/faults.sh [--rate N] [--times N] [--seed N] [--only PROXY] [ROW]...     (--help names the rows; all when none is named)
# Prints one Markdown table. Each request has an id that client and instances log; the two histories are compared afterwards.
# ZOOGATE=FILE measures that binary instead of building one.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
export PATH=$PATH:/usr/sbin
as=(); [ "$(id -u)" = 0 ] || as=(sudo -n)
missing=()
for tool in haproxy nginx; do command -v $tool >/dev/null || missing+=($tool); done
command -v nft >/dev/null || missing+=(nftables)
command -v ip >/dev/null || missing+=(iproute2)
if [ ${#missing[@]} -gt 0 ]; then
  "${as[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${as[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
# ZooKeeper, kazoo and gRPC are those of the tests.
python=${ZOOGATE_TEST_PYTHON:-${CARGO_TARGET_DIR:-$here/../target}/tools/venv/bin/python}
[ -x "$python" ] && [ -e /usr/share/java/zookeeper.jar ] || "$here/../test.sh" setup >&2
if [ -z "${ZOOGATE:-}" ]; then
  cargo build --release --quiet --locked --manifest-path "$here/../Cargo.toml"
  ZOOGATE=$(readlink -f "${CARGO_TARGET_DIR:-$here/../target}/release/zoogate")
fi
export ZOOGATE PYTHONPATH=$here
# A network of our own, so that what is done to it is done to nobody else.
for own in "unshare --net" "unshare --map-root-user --net"; do
  if $own nft list ruleset >/dev/null 2>&1; then
    export FAULTS_NAMESPACE=own
    exec $own "$python" -m faults "$@"
  fi
done
exec "$python" -m faults "$@"
