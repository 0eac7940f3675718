"""What the access line says of a reply."""

from app.contracts.envelope import Reply
from app.contracts.fold import COMPLETED, FINAL
from app.gateway.access_log import noted

NOTES = (("worker", "w"), ("queue-ms", "1.5"), ("upstream-ms", "20.0"), ("usage", '{"completion_tokens":2}'))


def test_a_final_records_notes_are_members_of_the_access_line():
    line = {"outcome": COMPLETED, "worker": "w", "queue_ms": 1.5, "upstream_ms": 20.0, "completion_tokens": 2}
    assert noted(Reply("i", "w", FINAL, 0, outcome=COMPLETED, notes=NOTES)) == line
    assert noted(Reply("i", "g", FINAL, 0, outcome=COMPLETED)) == {"outcome": COMPLETED, "worker": ""}


def test_what_a_later_version_notes_beside_them_is_left_alone():
    known = Reply("i", "w", FINAL, 0, outcome=COMPLETED, notes=NOTES)
    later = Reply("i", "w", FINAL, 0, outcome=COMPLETED, notes=(*NOTES, ("engine", "vllm"), ("cached-ms", "3")))
    assert noted(later) == noted(known)
