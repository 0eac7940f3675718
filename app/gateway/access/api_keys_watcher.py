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

_LOOK_SECONDS = 2.0


class ApiKeysWatcher(Collector):
    """Its keys are in force once this is made. `name` empty: there is none. Tells /metrics whether
    they are as they stand there.

    Raises SettingsError.
    """

    def __init__(self, name: str, keys: Authenticator) -> None:
        self._path = Path(name) if name else None
        self._keys = keys
        # the content that was looked at last, whether it worked or not; None: there was none
        self._seen: bytes | None = None
        self._trouble = ""  # why the keys of before are in force; empty: those of the file are
        if self._path:
            self._seen = read_keys_file(self._path)
            keys.replace(parse_keys(self._seen, self._path))

    async def watch(self) -> None:
        """Goes on until it is cancelled, whatever a look comes to: a key that is revoked later must
        not stay in force.
        """
        while self._path:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self.look()
            except Exception:
                self._trouble = "unknown"
                logger.exception(
                    "%s could not be looked at; the keys of before stay in force", self._path
                )

    async def look(self) -> None:
        """Takes the file's keys if its content has changed; its times tell too little, they are
        coarse and links change.
        """
        assert self._path
        try:
            changed = await asyncio.to_thread(self._read_change, self._path)
        except SettingsError as error:
            return self._keep(str(error))
        if changed is not None:
            self._keys.replace(changed)
            self._trouble = ""
            logger.info("%s has changed: %d keys are in force", self._path, len(changed))

    def describe(self) -> Iterator[GaugeMetricFamily]:
        if self._path:
            yield gauge_family(KEYS_FILE_IN_FORCE)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for gauge in self.describe():
            gauge.add_metric([], 0 if self._trouble else 1)
            yield gauge

    def _read_change(self, path: Path) -> tuple[KeyEntry, ...] | None:
        before, self._seen = self._seen, None
        self._seen = read_keys_file(path)
        return parse_keys(self._seen, path) if self._seen != before else None

    def _keep(self, trouble: str) -> None:
        """Says once what is wrong."""
        if trouble != self._trouble:
            logger.error("%s; the keys of before stay in force", trouble)
        self._trouble = trouble
