"""A reply's body decompressed as it comes: some upstreams compress although nobody asked them to."""

import zlib
from collections.abc import Iterator

from app.agent.engines.http_errors import CUT_SHORT, UpstreamError

STEP_BYTES = 64 * 1024  # given out at once: a few bytes may unpack to a thousand times as many
_KNOWN = frozenset({"gzip", "x-gzip", "deflate"})
_ZLIB_OR_GZIP, _RAW = 47, -15  # zlib's window bits: the header says which of the two, or there is none
_ZLIB_METHOD = 8  # the low half of a zlib stream's first byte; of a raw one it would be a stored block with wrong padding


class Unpacker:
    """Raises UpstreamError for a coding that it does not know."""

    def __init__(self, coding: str) -> None:
        if coding not in _KNOWN:
            raise UpstreamError(f"its reply's content-encoding is not known ({coding})")
        self._may_be_raw = coding == "deflate"
        self._zlib: zlib._Decompress | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the bytes unpack to, piece by piece. Raises UpstreamError where they are not what they are said to be."""
        piece = b""
        while data or len(piece) == STEP_BYTES:  # a full step may have left some of its output inside
            if self._zlib is None or (self._zlib.eof and data):  # gzip may have several members
                self._zlib = zlib.decompressobj(self._window_bits(data))
            try:
                piece = self._zlib.decompress(data, STEP_BYTES)
            except zlib.error:
                raise UpstreamError(CUT_SHORT) from None
            if piece:
                yield piece
            data = self._zlib.unconsumed_tail or self._zlib.unused_data

    def end(self) -> None:
        """Raises UpstreamError where something is missing."""
        if self._zlib is not None and not self._zlib.eof:
            raise UpstreamError(CUT_SHORT)

    def _window_bits(self, data: bytes) -> int:
        return _RAW if self._may_be_raw and data[0] & 0xF != _ZLIB_METHOD else _ZLIB_OR_GZIP
