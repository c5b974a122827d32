"""A package, so that processes started by tests find `tests.fakes` by its name."""
