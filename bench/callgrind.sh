#!/usr/bin/env bash
# Counts the instructions of codec, payloads, rings, route and picks, and compares with bench/callgrind.txt.
#   bench/callgrind.sh [--save]
# Says what takes over CALLGRIND_PERCENT (5) more than is written there, or is not written there, and exits with 1.
# --save writes what is counted now.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
command -v valgrind >/dev/null || { echo "install: valgrind" >&2; exit 1; }
binary=$(cargo bench --quiet --no-run --message-format=json --bench counts |
  python3 -c 'import json, sys
for message in map(json.loads, sys.stdin):
    if message.get("executable") and message["target"]["name"] == "counts":
        print(message["executable"])')
out=$(mktemp); trap 'rm -f "$out"' EXIT

count() { valgrind --tool=callgrind --callgrind-out-file=/dev/null "$binary" "$1" "$2" 2>&1 | sed -n 's/.*Collected : *//p'; }
for case in serve-http2 ask-http2 read-request read-answer read-chunks write-request decode-{json,url} hash-key {build,change}-ring route \
            pick-{round_robin,random,least_request,peak_ewma,ring,bounded,maglev}; do
  few=$(count "$case" 1000) many=$(count "$case" 3000)
  echo "$case $(((many - few) / 2000))"
done | tee "$out"

if [ "${1:-}" = --save ]; then cp "$out" bench/callgrind.txt; exit; fi
awk -v percent="${CALLGRIND_PERCENT:-5}" 'NR == FNR { was[$1] = $2; next }
     !($1 in was) { printf "%s: not in bench/callgrind.txt\n", $1; worse = 1; next }
     $2 > was[$1] * (1 + percent / 100) {
       printf "%s: %d instructions, %d before: %.1f %% more\n", $1, $2, was[$1], ($2 / was[$1] - 1) * 100; worse = 1 }
     END { exit worse }' bench/callgrind.txt "$out"
