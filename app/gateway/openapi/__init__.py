"""The OpenAPI document. To add an endpoint: a row in `endpoints.py`; its schemas in `requests.py`
and `replies.py`.
"""

from app.gateway.openapi.document import document

__all__ = ["document"]
