"""A reply's body decompressed as it comes: some upstreams compress although nobody asked them
to.
"""

import zlib
from collections.abc import Iterator

from app.agent.engines.http.errors import CUT_SHORT, Unreadable, UpstreamError
from app.errors import ReplyTooLarge

STEP_BYTES = 64 * 1024  # given out at once: a few bytes may unpack to a thousand times as many
# taken in at once: zlib copies what is left of them for each of gzip's members
WINDOW_BYTES = 16 * 1024
CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
UNSUPPORTED = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})
# of the unpacked bytes to the packed ones; JSON has up to 50, and gzip can reach 1,000
MOST_RATIO = 200
_FREE_BYTES = 1024 * 1024  # unpacked before the ratio counts
# zlib's window bits: the header says which of the two, or there is none
_ZLIB_OR_GZIP, _RAW = 47, -15
# the low half of a zlib stream's first byte; of a raw one it would be a stored block with wrong
# padding
_ZLIB_METHOD = 8


class Unpacker:
    """Unpacks one body of one of the `CODINGS`."""

    def __init__(self, coding: str) -> None:
        self._packed = self._unpacked = 0  # bytes so far
        self._may_be_raw = coding == "deflate"
        self._zlib: zlib._Decompress | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Unpack bytes, piece by piece: at least one piece, be it empty, for each WINDOW_BYTES.

        Raises Unreadable where they are not so coded, ReplyTooLarge where they unpack to too many.
        """
        self._packed += len(data)
        for start in range(0, len(data), WINDOW_BYTES):
            yield from self._unpack(data[start : start + WINDOW_BYTES])

    def _unpack(self, data: bytes) -> Iterator[bytes]:
        piece, is_silent = b"", True
        # a full step may have left some of its output inside
        while data or len(piece) == STEP_BYTES:
            if self._zlib is None or (self._zlib.eof and data):  # gzip may have several members
                self._zlib = zlib.decompressobj(self._window_bits(data))
            try:
                piece = self._zlib.decompress(data, STEP_BYTES)
            except zlib.error:
                raise Unreadable("its reply is not what its content-encoding says") from None
            self._unpacked += len(piece)
            if self._unpacked > _FREE_BYTES and self._unpacked > MOST_RATIO * self._packed:
                raise ReplyTooLarge(
                    f"the model's reply unpacks to more than {MOST_RATIO} times its bytes"
                )
            if piece:
                is_silent = False
                yield piece
            data = self._zlib.unconsumed_tail or self._zlib.unused_data
        if is_silent:
            yield b""

    def end(self) -> None:
        """Raises UpstreamError where something is missing."""
        if self._zlib is not None and not self._zlib.eof:
            raise UpstreamError(CUT_SHORT)

    def _window_bits(self, data: bytes) -> int:
        return _RAW if self._may_be_raw and data[0] & 0xF != _ZLIB_METHOD else _ZLIB_OR_GZIP
