"""The list of models in the shapes of Anthropic's API:
https://docs.anthropic.com/en/api/models-list
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from app.cluster.model_registry import ModelState
from app.errors import BadRequest

_LIMIT, _MOST = 20, 1000  # models on a page


def described_to_anthropic(known: ModelState) -> dict[str, Any]:
    """Return a model's description."""
    created = datetime.fromtimestamp(known.card.created, UTC)
    return {
        "type": "model",
        "id": known.card.model,
        "display_name": known.card.model,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
    }


def anthropic_page(models: Sequence[ModelState], query: Mapping[str, str]) -> dict[str, Any]:
    """Return a page of `models`, which are in the order of their ids. Raises BadRequest.

    A cursor is compared, not looked up, so that a model that is gone by the next page breaks no
    list.
    """
    limit = _limit(query.get("limit", str(_LIMIT)))
    after, before = query.get("after_id", ""), query.get("before_id", "")
    within = [
        known
        for known in models
        if known.card.model > after and (not before or known.card.model < before)
    ]
    page = within[-limit:] if before and not after else within[:limit]
    return {
        "data": [described_to_anthropic(known) for known in page],
        "has_more": len(page) < len(within),
        "first_id": page[0].card.model if page else None,
        "last_id": page[-1].card.model if page else None,
    }


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= _MOST):
        raise BadRequest(f"limit: expected a whole number from 1 to {_MOST}.", param="limit")
    return int(text)
