#!/bin/sh
# Makes sure that Debian's RabbitMQ is on this machine, as files only: no service of it is started, now or at the
# next boot. Quiet when there is nothing to do or all went well; shows apt's own words when it did not.
set -eu

PREFIX=${RABBITMQ_PREFIX:-/usr/lib/rabbitmq/lib}
POLICY=${POLICY_RC_D:-/usr/sbin/policy-rc.d}
MARK='# vigiloconn: no service is started while a package is installed'
log=

say() { printf '%s\n' "install-rabbitmq: $*" >&2; }

is_installed() {
    for program in "$PREFIX"/rabbitmq_server-*/sbin/rabbitmq-server; do
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
    say "no RabbitMQ in $PREFIX and no apt-get here: install RabbitMQ so that $PREFIX/rabbitmq_server-*/ exists"
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    say "RabbitMQ is missing and only root may install it. Run as root:"
    say "    apt-get install --no-install-recommends rabbitmq-server"
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
"$POLICY" rabbitmq-server start >/dev/null 2>&1 </dev/null && verdict=0 || verdict=$?
if [ "$verdict" -ne 101 ]; then
    say "$POLICY of this machine lets services start (status $verdict for rabbitmq-server, expected 101):"
    say "install rabbitmq-server by hand, or let the policy refuse it"
    exit 1
fi

say "installing Debian's rabbitmq-server (about a minute)"
apt update
apt install -y --no-install-recommends rabbitmq-server
# Installed for private nodes only: without this the package's own broker would start at the next boot.
if command -v systemctl >/dev/null 2>&1; then
    systemctl disable -q rabbitmq-server.service >/dev/null 2>&1 || say "could not disable rabbitmq-server.service"
elif command -v update-rc.d >/dev/null 2>&1; then
    update-rc.d rabbitmq-server disable >/dev/null 2>&1 || say "could not disable rabbitmq-server's init script"
fi
if ! is_installed; then
    say "rabbitmq-server was installed but $PREFIX/rabbitmq_server-*/sbin/rabbitmq-server is not there"
    exit 1
fi
