"""The OpenAPI document. To add an endpoint: a row in `endpoints.py`; its schemas in `requests.py`
and `replies.py`.
"""

from app.gateway.openapi.document import build_document

__all__ = ["build_document"]
