#!/bin/sh
# Make .venv hold exactly one lock (run or dev) and this project, editable; do nothing when it already does.
#
# Usage, from the repository's root: sh requirements/install.sh run|dev
# PYTHON names the interpreter to begin with; any Python >= 3.11 on PATH is found otherwise.
set -eu

lock=$1
python=.venv/bin/python

# What the environment was made from: moved or changed, it is made again. dev holds everything that run holds.
made_from() {
    { pwd -P; cat "requirements/$1.txt" pyproject.toml; } | cksum | tr ' ' '-'
}

is_installed() {
    [ -e ".venv/.$1-$(made_from "$1")" ] && "$python" -c '' 2>/dev/null
}

find_python() {
    for candidate in "${PYTHON:-python3}" python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Amends needs Python 3.11 or newer; '${PYTHON:-python3}' is $("${PYTHON:-python3}" --version 2>&1 || true)" >&2
    echo "Install one, or name it: make demo PYTHON=/path/to/python3.12" >&2
    return 1
}

make_environment() {
    found=$(find_python)
    echo "Making .venv with $("$found" --version) ..." >&2
    if ! "$found" -m venv --clear .venv >&2; then
        echo "'$found -m venv' failed: on Debian and Ubuntu, apt-get install python3-venv" >&2
        return 1
    fi
    pwd -P >.venv/.made-at
}

is_installed dev && exit
[ "$lock" = run ] && is_installed run && exit

# Two makes in one directory take turns.
if [ -z "${AMENDS_INSTALL_LOCKED:-}" ] && command -v flock >/dev/null; then
    AMENDS_INSTALL_LOCKED=1 exec flock requirements/install.sh sh requirements/install.sh "$lock"
fi

# An environment that was moved, or whose interpreter is gone, cannot be mended.
if [ "$(cat .venv/.made-at 2>/dev/null)" != "$(pwd -P)" ] || ! "$python" -m pip --version >/dev/null 2>&1; then
    make_environment
fi
rm -f .venv/.run-* .venv/.dev-*
echo "Installing requirements/$lock.txt ..." >&2
"$python" -m pip install -qq --disable-pip-version-check --require-hashes -r "requirements/$lock.txt" >&2
"$python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e . >&2
: >".venv/.$lock-$(made_from "$lock")"
