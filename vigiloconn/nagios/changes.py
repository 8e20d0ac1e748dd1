"""Which of Nagios' results are events, as it runs event handlers for them. Pure; knows results, not lines."""

from __future__ import annotations

from collections.abc import Mapping

#: What the names of the kept texts begin with.
HOST_PREFIX = "host:"
#: OK, UP.
_GOOD = "0"


class Changes:
    """Tells events from repeated results.

    A soft problem always is one, and so is each problem of a volatile service. Of a hard one Nagios says when the state
    last changed: an event when that was at this very check. That a service is well again is told by its code before. A
    host's soft state that becomes hard does not set that time before Nagios 4.5, so what each host was last is kept:
    `known` has it from before the start.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        self._hosts = {name: text for name, text in known.items() if name.startswith(HOST_PREFIX)}
        self._services: dict[tuple[str, str], tuple[str, str, str]] = {}
        self._changed: dict[str, str] = {}

    def is_service_event(
        self, host: str, service: str, code: str, state_type: str, is_volatile: bool, code_before: str,
        changed_at: str, checked_at: str,
    ) -> bool:
        """Answer whether this result of a service is an event."""
        is_new = changed_at == checked_at
        if is_new:
            # Times are whole seconds: a second result within the one of the change would look like another change.
            before = self._services.get((host, service))
            self._services[host, service] = now = (code, state_type, changed_at)
            is_new = before != now
        if code == _GOOD:
            # The second result of a new service sets the time, though nothing changed.
            return code_before != _GOOD
        return is_new or state_type != "HARD" or is_volatile

    def is_host_event(self, host: str, code: str, state_type: str, changed_at: str, checked_at: str) -> bool:
        """Answer whether this result of a host is an event."""
        name, now = HOST_PREFIX + host, f"{code};{state_type}"
        before = self._hosts.get(name)
        if before != now:
            self._hosts[name] = self._changed[name] = now
        if before is None:
            return state_type != "HARD" or changed_at == checked_at
        if code == _GOOD:
            # From a soft state to a hard one of the same code: for Nagios that is nothing new, where all is well.
            return not before.startswith(f"{_GOOD};")
        return state_type != "HARD" or before != now

    def take_changed(self) -> dict[str, str]:
        """Return what is new of hosts since the last call, name -> text for the journal."""
        changed, self._changed = self._changed, {}
        return changed
