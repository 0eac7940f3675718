"""Who may see the operator's views at the gateway's own port: clients on its machine, and whoever has an operator's key."""

from hmac import compare_digest

from app.gateway.asgi import Scope, header
from app.gateway.auth import bearer
from app.gateway.client import is_local
from app.settings import GatewaySettings
from app.web_pages import is_own_page, names_this_machine


class Operators:
    def __init__(self, settings: GatewaySettings) -> None:
        self._keys = [key.encode() for key in settings.operator_keys]
        self._trusted = settings.trusted_proxies

    def admits(self, scope: Scope) -> bool:
        sent = bearer(header(scope, b"authorization"))
        if any(compare_digest(sent, key) for key in self._keys):
            return True
        host = header(scope, b"host")
        is_own = names_this_machine(host) and is_own_page(header(scope, b"origin"), host)  # CORS_ORIGINS are for models alone
        return is_own and is_local(scope, self._trusted)
