#!/bin/sh
# Sets up what the SDK tests run, under build/test-env: a Python environment and a folder of npm packages.
# Does nothing when it is there already and requirements.txt and package.json have not changed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
env=$(cd "$here/../.." && pwd)/build/test-env
mkdir -p "$env"
# Tests run side by side: the first one sets up, the others wait.
exec 9>"$env/lock"
flock 9

wanted=$(cat "$here/requirements.txt" "$here/package.json" "$here/setup.sh" | cksum)
[ "$(cat "$env/done" 2>/dev/null || true)" != "$wanted" ] || exit 0

missing=""
python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
command -v node >/dev/null || missing="$missing nodejs"
command -v npm >/dev/null || missing="$missing npm"
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setting up the tests: installing$missing" >&2
        apt-get update -q >&2
        # shellcheck disable=SC2086 # a list of names
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3 $missing >&2
    else
        echo "the SDK tests need:$missing (Python 3.9 or newer, Node.js 18 or newer). Install them and try again" >&2
        exit 1
    fi
fi

rm -rf "$env/python" "$env/node" "$env/done"
python3 -m venv "$env/python"
"$env/python/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
mkdir "$env/node"
cp "$here/package.json" "$env/node/"
(cd "$env/node" && npm install --silent --no-audit --no-fund)
echo "$wanted" >"$env/done"
