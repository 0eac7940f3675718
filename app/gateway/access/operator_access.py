"""Who may see the operator's views at the gateway's own port: clients on its machine, and whoever
has an operator's key.
"""

from hmac import compare_digest

from app.config.gateway_settings import GatewaySettings
from app.gateway.access.authentication import bearer
from app.gateway.http.asgi import Scope, header
from app.gateway.http.client_address import peer_of
from app.locality import AccessPolicy


class Operators:
    def __init__(self, settings: GatewaySettings) -> None:
        self._keys = [key.encode() for key in settings.operator_keys]
        # CORS_ORIGINS and ALLOWED_HOSTS are for the models alone.
        self._policy = AccessPolicy(is_local_only=True, trusted_proxies=settings.trusted_proxies)

    def admits(self, scope: Scope) -> bool:
        sent = bearer(header(scope, b"authorization"))
        if any(compare_digest(sent, key) for key in self._keys):
            return True
        return not self._policy.find_refusal_reason(peer_of(scope), scope["headers"])
