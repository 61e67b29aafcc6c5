#!/bin/sh
# Builds the release twice, in two new folders, without the network, and compares every file byte for byte.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for copy in one two/deeper; do
  mkdir -p "$work/$copy"
  (cd "$root" && git ls-files -z | xargs -0 cp --parents -t "$work/$copy")
  (cd "$work/$copy" && unset CARGO_TARGET_DIR && CARGO_NET_OFFLINE=true make --no-print-directory build)
  rm -rf "$work/$copy/target"
done
(cd "$work/one/build" && find . -type f ! -path './data/*' | sort) | while read -r file; do
  cmp "$work/one/build/$file" "$work/two/deeper/build/$file"
  for path in "$work" "$HOME/.cargo" "$HOME/.rustup"; do
    if grep -qaF "$path" "$work/one/build/$file"; then
      echo "$file holds $path" >&2
      exit 1
    fi
  done
  echo "equal: $file"
done
