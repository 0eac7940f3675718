"""Who may see the operator's views at the gateway's own port: clients on its machine, and whoever has an operator's key."""

from hmac import compare_digest
from ipaddress import ip_address
from urllib.parse import urlsplit

from app.gateway.asgi import Scope, header
from app.gateway.auth import bearer
from app.gateway.client import is_local
from app.settings import GatewaySettings


class Operators:
    def __init__(self, settings: GatewaySettings) -> None:
        self._keys = [key.encode() for key in settings.operator_keys]
        self._trusted = settings.trusted_proxies

    def admits(self, scope: Scope) -> bool:
        sent = bearer(header(scope, b"authorization"))
        if any(compare_digest(sent, key) for key in self._keys):
            return True
        # A page of somebody else's in a browser on this machine speaks from here too. Browsers then say whose it is, or, where
        # its name was made to lead here (DNS rebinding), ask for that name.
        is_own = not header(scope, b"origin") and _is_no_name(header(scope, b"host"))
        return is_own and is_local(scope, self._trusted)


def _is_no_name(host: str) -> bool:
    """An address, or localhost; none at all is no browser's."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in ("", "localhost") or bool(ip_address(name).packed)
    except ValueError:
        return False
