"""Who may see the operator's views at the gateway's own port: clients on its machine, and whoever
has an operator's key.
"""

from hmac import compare_digest

from app.config.gateway_settings import GatewaySettings
from app.gateway.access.authentication import parse_bearer_token
from app.gateway.http.asgi import Scope, get_header
from app.gateway.http.client_address import get_peer_address
from app.locality import AccessPolicy


class OperatorAccess:
    def __init__(self, settings: GatewaySettings) -> None:
        self._operator_keys = [key.encode() for key in settings.operator_keys]
        # CORS_ORIGINS and ALLOWED_HOSTS are for the models alone.
        self._policy = AccessPolicy(is_local_only=True, trusted_proxies=settings.trusted_proxies)

    def is_allowed(self, scope: Scope) -> bool:
        offered_key = parse_bearer_token(get_header(scope, b"authorization"))
        if any(compare_digest(offered_key, key) for key in self._operator_keys):
            return True
        return not self._policy.find_refusal_reason(get_peer_address(scope), scope["headers"])
