#!/bin/sh
# Makes sure that Debian's Chromium is on this machine, for the tests of the page: nothing is started.
exec sh "$(dirname "$0")/install-package.sh" chromium chromium "${CHROMIUM_PREFIX:-/usr/bin}" chromium
