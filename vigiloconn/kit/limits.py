"""Bounds that are not ours to choose: AMQP's, RabbitMQ's, the kernel's. Knows numbers, nothing of what they bound."""

from __future__ import annotations

#: Exchange, queue, routing key and text properties are "short strings" in AMQP, their length one octet.
MAX_NAME_BYTES = 255
#: A TTL travels in milliseconds, which RabbitMQ takes as a 32 bit number.
MAX_TTL_S = 4_294_967
#: What `sockaddr_un.sun_path` holds on Linux, without the final NUL.
MAX_SOCKET_PATH_BYTES = 107
