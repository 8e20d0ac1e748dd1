#!/bin/sh
# Makes sure that Debian's Nagios is on this machine, for the tests' private processes: nothing is started. The core
# alone, without recommended packages: with them it would be a web server and 50 packages more.
exec sh "$(dirname "$0")/install-package.sh" nagios4-core nagios4 "${NAGIOS_PREFIX:-/usr/sbin}" nagios4
