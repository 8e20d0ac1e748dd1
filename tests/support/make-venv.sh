#!/bin/sh
# make-venv.sh PYTHON DIRECTORY: makes the virtual environment, or leaves it when it is what it should be: made by
# this Python, in this place, from this setup.py. Quiet when all goes well; shows the log when it does not.
set -eu

python=$1
venv=$2
log=

say() { printf '%s\n' "make-venv: $*" >&2; }

run() {
    if ! "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        say "failed, its output is above: $*"
        return 1
    fi
}

if ! command -v "$python" >/dev/null 2>&1; then
    say "no program '$python': install Python 3.11 to 3.13, or name one: make PYTHON=/path/to/python3.12"
    exit 1
fi
if ! version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])'); then
    say "'$python' is no Python that runs: make PYTHON=/path/to/python3.12"
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
    say "'$python' is Python $version, expected 3.11 to 3.13: make PYTHON=/path/to/python3.12"
    exit 1
fi

# One at a time: `make test` and `make run` may begin in the same moment.
exec 9<.
flock 9

wanted="$version $(pwd -P) $(cksum <setup.py)"
if [ -f "$venv/.made-from" ] && [ "$(cat "$venv/.made-from")" = "$wanted" ]; then
    exit 0
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' HUP INT TERM

# Debian splits the module that fills a virtual environment off into a package of its own.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        say "'$python' can't make virtual environments (no ensurepip). On Debian, as root: apt-get install python3-venv"
        exit 1
    fi
    say "installing Debian's python3-venv"
    export DEBIAN_FRONTEND=noninteractive
    run apt-get -q -o DPkg::Lock::Timeout=120 update
    run apt-get -q -o DPkg::Lock::Timeout=120 install -y --no-install-recommends python3-venv
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        say "'$python' still can't make virtual environments: try make PYTHON=/usr/bin/python3"
        exit 1
    fi
fi

say "making $venv with Python $version (half a minute)"
# Kept until the new one is there: without a network, one that works is better than none.
rm -rf "$venv.before"
if [ -d "$venv" ]; then mv "$venv" "$venv.before"; fi
if ! { run "$python" -m venv "$venv" &&
    run "$venv/bin/python" -m pip install -q --disable-pip-version-check -e '.[test,lint]'; }; then
    rm -rf "$venv"
    if [ -d "$venv.before" ]; then
        mv "$venv.before" "$venv"
        say "the environment of before is kept as it was"
    fi
    exit 1
fi
rm -rf "$venv.before"
printf '%s\n' "$wanted" >"$venv/.made-from"
command -v "$python" >"$venv/.made-by"
