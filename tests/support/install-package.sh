#!/bin/sh
# Makes sure that a package of Debian is on this machine, as files only: no service of it is started, now or at the
# next boot. Quiet when there is nothing to do or all went well; shows apt's own words when it did not.
#
#     install-package.sh PACKAGE SERVICE DIRECTORY PROGRAM
#
# PROGRAM, a pattern below DIRECTORY, is what the package is wanted for: where it is there, nothing is done.
set -eu

PACKAGE=$1
SERVICE=$2
DIRECTORY=$3
PROGRAM=$4
POLICY=${POLICY_RC_D:-/usr/sbin/policy-rc.d}
MARK='# vigiloconn: no service is started while a package is installed'
log=

say() { printf '%s\n' "install-package: $*" >&2; }

is_installed() {
    # Unquoted: the pattern is to be expanded.
    for program in "$DIRECTORY"/$PROGRAM; do
        [ -x "$program" ] && return 0
    done
    return 1
}

# A policy file that we made, be it in an earlier run that was killed, goes; one of the machine's own stays.
restore() {
    if [ -f "$POLICY" ] && grep -qxF "$MARK" "$POLICY"; then
        rm -f "$POLICY"
    fi
    [ -z "$log" ] || rm -f "$log"
}

apt() {
    if ! DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        say "apt-get $* failed, its output is above"
        return 1
    fi
}

if is_installed; then
    restore
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    say "no $PROGRAM in $DIRECTORY and no apt-get here: install $PACKAGE so that $DIRECTORY/$PROGRAM exists"
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    say "$PACKAGE is missing and only root may install it. Run as root:"
    say "    apt-get install --no-install-recommends $PACKAGE"
    exit 1
fi

trap restore EXIT
trap 'exit 130' HUP INT TERM
log=$(mktemp)
if [ ! -e "$POLICY" ]; then
    printf '%s\n' '#!/bin/sh' "$MARK" 'exit 101' >"$POLICY"
    chmod 755 "$POLICY"
fi
# A policy of the machine's own that lets services start is not ours to overrule: say so instead of starting one.
"$POLICY" "$SERVICE" start >/dev/null 2>&1 </dev/null && verdict=0 || verdict=$?
if [ "$verdict" -ne 101 ]; then
    say "$POLICY of this machine lets services start (status $verdict for $SERVICE, expected 101):"
    say "install $PACKAGE by hand, or let the policy refuse it"
    exit 1
fi

say "installing Debian's $PACKAGE (up to a minute)"
apt update
apt install -y --no-install-recommends "$PACKAGE"
# Installed for private processes only: without this the package's own service would start at the next boot.
if command -v systemctl >/dev/null 2>&1; then
    systemctl disable -q "$SERVICE.service" >/dev/null 2>&1 || say "could not disable $SERVICE.service"
elif command -v update-rc.d >/dev/null 2>&1; then
    update-rc.d "$SERVICE" disable >/dev/null 2>&1 || say "could not disable $SERVICE's init script"
fi
if ! is_installed; then
    say "$PACKAGE was installed but $DIRECTORY/$PROGRAM is not there"
    exit 1
fi
