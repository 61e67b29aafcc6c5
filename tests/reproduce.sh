#!/bin/sh
# Builds the release twice, in two new folders, without the network once everything is fetched, and compares
# every file byte for byte. No path of this machine may stand in one of them. Tells what it compared; ends with 1
# on a difference.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cargo=${CARGO_HOME:-$HOME/.cargo}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
first="$work/one"
second="$work/two/deeper"
(cd "$root" && ${CARGO:-cargo} fetch --locked --quiet)
for copy in "$first" "$second"; do
  mkdir -p "$copy"
  (cd "$root" && git ls-files -z | xargs -0 cp --parents -t "$copy")
  (cd "$copy" && unset CARGO_TARGET_DIR && CARGO_NET_OFFLINE=true make --no-print-directory build)
  rm -rf "$copy/target"
  (cd "$copy/build" && find . -type f ! -path './data/*' | LC_ALL=C sort) >"$copy.files"
done
cmp "$first.files" "$second.files"
wrong=0
while read -r file; do
  if cmp "$first/build/$file" "$second/build/$file"; then
    (cd "$first/build" && sha256sum "$file")
  else
    wrong=1
  fi
  for path in "$work" "$root" "$cargo" "$HOME/.rustup"; do
    if grep -qaF "$path" "$first/build/$file"; then
      echo "$file holds the path $path" >&2
      wrong=1
    fi
  done
done <"$first.files"
count=$(wc -l <"$first.files")
[ "$count" -gt 0 ] || wrong=1
[ "$wrong" = 0 ] || { echo "two builds of $count files differ, or tell where they were built" >&2; exit 1; }
echo "$count files are equal byte for byte, and none holds a path of this machine"
