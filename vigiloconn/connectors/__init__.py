"""Connectors that come with the runtime, a `build(settings, supervisor)` each, and `parts` for those of one's own."""
