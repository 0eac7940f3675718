"""The bus inside one process and event loop: the embedded default, and for tests."""
