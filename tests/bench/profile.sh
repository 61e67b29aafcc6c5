#!/bin/sh
# Renews packaging/release.profdata: builds gateway and plugins with counters, has them answer what `make bench` asks
# and some requests over TLS, and merges what was counted. For `make profile`, which passes the bench's program and
# the plugins' ids. The file is read by every Rust whose LLVM is not older than the llvm-profdata that wrote it, so an
# old one is best: Debian's llvm-19, or the one named by LLVM_PROFDATA.
set -eu
bench=$1
providers=$2
cargo=${CARGO:-cargo}
profdata=${LLVM_PROFDATA:-$(command -v llvm-profdata-19 || echo /usr/lib/llvm-19/bin/llvm-profdata)}
"$profdata" merge --help >/dev/null || { echo "make profile needs llvm-profdata: install llvm-19" >&2; exit 1; }
target=$(cd "$(dirname "$bench")/.." && pwd)/counted
counts=$target/counts
work=$(mktemp -d)
gateway=
trap '[ -z "$gateway" ] || kill "$gateway"; rm -rf "$work"' EXIT

packages="-p host"
for id in $providers; do packages="$packages -p $id"; done
# shellcheck disable=SC2086
RUSTFLAGS="$RUSTFLAGS -Cprofile-generate=$counts" CARGO_TARGET_DIR=$target \
  "$cargo" build --release --locked $packages
mkdir "$work/plugins"
for id in $providers; do
  install -m 755 "$target/release/lib$(echo "$id" | tr - _).so" "$work/plugins/$id.so"
done
rm -rf "$counts"
"$bench" all "$target/release/sigoREST" "$work/plugins" >/dev/null

mkdir "$work/data"
printf '[access]\nhttps = ["127.0.0.0/8"]\n' >"$work/data/sigorest.toml"
"$target/release/sigoREST" -data-dir "$work/data" -plugin-dir "$work/plugins" \
  -http-port 19083 -https-port 19443 2>/dev/null &
gateway=$!
ask() {
  curl --silent --show-error --fail --insecure --retry 20 --retry-all-errors --retry-delay 1 --output /dev/null "$@"
}
# The first start makes a certificate first.
ask https://127.0.0.1:19443/api/health
for version in --http1.1 --http2; do
  for _ in $(seq 100); do
    ask $version https://127.0.0.1:19443/v1/models
    for stream in false true; do
      ask $version https://127.0.0.1:19443/v1/chat/completions -H 'content-type: application/json' \
        -d "{\"model\":\"echo\",\"stream\":$stream,\"messages\":[{\"role\":\"user\",\"content\":\"one two\"}]}"
    done
  done
done
kill "$gateway"
wait "$gateway"
gateway=
"$profdata" merge --sparse -o packaging/release.profdata "$counts"/*.profraw
ls -l packaging/release.profdata
