#!/bin/sh
# Makes sure that Debian's RabbitMQ is on this machine, for the tests' private nodes: nothing is started.
exec sh "$(dirname "$0")/install-package.sh" rabbitmq-server rabbitmq-server \
    "${RABBITMQ_PREFIX:-/usr/lib/rabbitmq/lib}" 'rabbitmq_server-*/sbin/rabbitmq-server'
