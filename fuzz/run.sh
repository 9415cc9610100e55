#!/usr/bin/env bash
# Runs a fuzz target on stable Rust, starting from its corpus in the tree.
#   fuzz/run.sh codec|request|http2|payload|config|route SECONDS [libFuzzer option]...
# What it finds on the way stays under target/fuzz/corpus; an input that fails is left in target/fuzz/found, and shown.
# fuzz/run.sh TARGET FILE runs one input. What is worth keeping goes into fuzz/corpus/TARGET, which the tests replay.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
usage() { sed -n '3,5s/^# *//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] && [ -f "$here/targets/$1.rs" ] || usage
target=$1 what=$2; shift 2

export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-$here/../target/fuzz/build}
# The names that rustc gives libFuzzer's instrumentation: cargo-fuzz sets the same, on nightly.
export RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares ${RUSTFLAGS:-}"
host=$(rustc -vV | sed -n 's/^host: //p')
# With --target, build scripts and macros stay without it. Not --locked: a dependency that the main package got joins the lock.
cargo build --quiet --release --manifest-path "$here/Cargo.toml" --target "$host" --bin "$target"
binary=$CARGO_TARGET_DIR/$host/release/$target
[ -f "$what" ] && exec "$binary" "$what"

work=$here/../target/fuzz
mkdir -p "$work/corpus/$target" "$work/found"
exec "$binary" -max_total_time="$what" -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$work/found/$target-" -print_final_stats=1 \
  "$@" "$work/corpus/$target" "$here/corpus/$target"
