"""The list of models in the shapes of Anthropic's API:
https://docs.anthropic.com/en/api/models-list
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from app.cluster.model_registry import ModelState
from app.errors import BadRequest

_DEFAULT_LIMIT, _MAX_LIMIT = 20, 1000  # models on a page


def describe_model_for_anthropic(model_state: ModelState) -> dict[str, Any]:
    """Return a model's description."""
    created = datetime.fromtimestamp(model_state.card.created, UTC)
    return {
        "type": "model",
        "id": model_state.card.model,
        "display_name": model_state.card.model,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
    }


def build_anthropic_page(models: Sequence[ModelState], query: Mapping[str, str]) -> dict[str, Any]:
    """Return a page of `models`, which are in the order of their ids. Raises BadRequest.

    A cursor is compared, not looked up, so that a model that is gone by the next page breaks no
    list.
    """
    limit = _parse_limit(query.get("limit", str(_DEFAULT_LIMIT)))
    after, before = query.get("after_id", ""), query.get("before_id", "")
    models_in_range = [
        model_state
        for model_state in models
        if model_state.card.model > after and (not before or model_state.card.model < before)
    ]
    page = models_in_range[-limit:] if before and not after else models_in_range[:limit]
    return {
        "data": [describe_model_for_anthropic(known) for known in page],
        "has_more": len(page) < len(models_in_range),
        "first_id": page[0].card.model if page else None,
        "last_id": page[-1].card.model if page else None,
    }


def _parse_limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= _MAX_LIMIT):
        raise BadRequest(f"limit: expected a whole number from 1 to {_MAX_LIMIT}.", param="limit")
    return int(text)
