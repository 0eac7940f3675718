"""API_KEYS_FILE, watched: a change is in force within seconds, one that does not work changes
nothing.
"""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app.config.api_keys_file import KeyEntry, parse_keys, read_keys_file
from app.errors import SettingsError
from app.gateway.access.authentication import Authenticator
from app.telemetry.metrics import KEYS_FILE_IN_FORCE, gauge_family

logger = logging.getLogger("app.gateway.keys")

_POLL_SECONDS = 2.0


class ApiKeysWatcher(Collector):
    """Its keys are in force once this is made. `file_name` empty: there is none. Tells /metrics
    whether they are as they stand there.

    Raises SettingsError.
    """

    def __init__(self, file_name: str, authenticator: Authenticator) -> None:
        self._path = Path(file_name) if file_name else None
        self._authenticator = authenticator
        # the content that was looked at last, whether it worked or not; None: there was none
        self._last_content: bytes | None = None
        self._last_error = ""  # why the keys of before are in force; empty: those of the file are
        if self._path:
            self._last_content = read_keys_file(self._path)
            authenticator.replace_file_keys(parse_keys(self._last_content, self._path))

    async def watch(self) -> None:
        """Goes on until it is cancelled, whatever a look comes to: a key that is revoked later must
        not stay in force.
        """
        while self._path:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                await self.reload_if_changed()
            except Exception:
                self._last_error = "unknown"
                logger.exception(
                    "%s could not be looked at; the keys of before stay in force", self._path
                )

    async def reload_if_changed(self) -> None:
        """Takes the file's keys if its content has changed; its times tell too little, they are
        coarse and links change.
        """
        assert self._path
        try:
            new_entries = await asyncio.to_thread(self._read_if_changed, self._path)
        except SettingsError as error:
            return self._set_error(str(error))
        if new_entries is not None:
            self._authenticator.replace_file_keys(new_entries)
            self._last_error = ""
            logger.info("%s has changed: %d keys are in force", self._path, len(new_entries))

    def describe(self) -> Iterator[GaugeMetricFamily]:
        if self._path:
            yield gauge_family(KEYS_FILE_IN_FORCE)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for gauge in self.describe():
            gauge.add_metric([], 0 if self._last_error else 1)
            yield gauge

    def _read_if_changed(self, path: Path) -> tuple[KeyEntry, ...] | None:
        previous_content, self._last_content = self._last_content, None
        self._last_content = read_keys_file(path)
        return (
            parse_keys(self._last_content, path) if self._last_content != previous_content else None
        )

    def _set_error(self, error: str) -> None:
        """Says once what is wrong."""
        if error != self._last_error:
            logger.error("%s; the keys of before stay in force", error)
        self._last_error = error
