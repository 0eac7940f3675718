"""Looks up how far a request's reply has come, in the reply log."""

from app.bus.base import Record
from app.protocol.records import RequestRecord
from app.protocol.reply_view import ReplyView
from app.reply_log.record_scanner import RecordScanner


class ReplyLookup:
    def __init__(self, scanner: RecordScanner, topic: str) -> None:
        self._scanner = scanner
        self._topic = topic

    async def look(self, request: RequestRecord) -> ReplyView:
        """Everything that lies in the log when this is called is seen, up to the reply's end.
        Raises BusError.
        """
        seen, id_ = ReplyView(), request.id.encode()

        def visit(record: Record) -> bool:
            seen.apply_log_record(record.headers, record.value, id_, record.timestamp)
            return bool(seen.state.outcome)  # nothing behind it counts

        where = self._topic, request.reply_partition, request.id, request.reply_offset
        low = await self._scanner.look(*where, visit, owner=request.tenant)
        seen.is_truncated = low > request.reply_offset
        return seen
