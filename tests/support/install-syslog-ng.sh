#!/bin/sh
# Makes sure that Debian's syslog-ng with its AMQP destination is on this machine, for `make bench-peers`: nothing is
# started. The destination's package brings the program.
exec sh "$(dirname "$0")/install-package.sh" syslog-ng-mod-amqp syslog-ng "${SYSLOG_NG_PREFIX:-/usr/sbin}" syslog-ng
