"""Which of Nagios' results are events, as it runs event handlers for them. Pure; knows results, not lines."""

from __future__ import annotations

from collections.abc import Mapping

#: What the names of the kept texts begin with.
HOST_PREFIX = "host:"


class Changes:
    """Tells events from repeated results.

    A soft state always is one. Of a hard one Nagios says when the state last changed: it is an event when that is
    this very check. A host's soft state that becomes hard does not set that time before Nagios 4.5, so what each host
    was last is kept: `known` has it from before the start.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        self._hosts = {name: text for name, text in known.items() if name.startswith(HOST_PREFIX)}
        self._services: dict[tuple[str, str], tuple[str, str, str]] = {}
        self._changed: dict[str, str] = {}

    def is_service_event(
        self, host: str, service: str, code: str, state_type: str, changed_at: str, checked_at: str
    ) -> bool:
        """Answer whether this result of a service is an event."""
        if state_type == "HARD" and changed_at != checked_at:
            return False
        # Times are whole seconds: a second result within the one of the change would look like another change.
        seen, now = self._services.get((host, service)), (code, state_type, changed_at)
        self._services[host, service] = now
        return state_type != "HARD" or seen != now

    def is_host_event(self, host: str, code: str, state_type: str, changed_at: str, checked_at: str) -> bool:
        """Answer whether this result of a host is an event."""
        name, now = HOST_PREFIX + host, f"{code};{state_type}"
        before = self._hosts.get(name)
        if before != now:
            self._hosts[name] = self._changed[name] = now
        if state_type != "HARD":
            return True
        return changed_at == checked_at if before is None else before != now

    def take_changed(self) -> dict[str, str]:
        """Return what is new of hosts since the last call, name -> text for the journal."""
        changed, self._changed = self._changed, {}
        return changed
