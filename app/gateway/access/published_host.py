"""Decide who may call without a key where a proxy in another container publishes the gateway.

Inside compose every client reaches the gateway from nginx, so the gateway cannot see which of them
is on this machine. The address that nginx is published on shows it: PUBLISHED_HOST, compose's
GATEWAY_HOST.
"""

from dataclasses import replace
from ipaddress import ip_address

from app.config.settings import Settings
from app.errors import SettingsError


def apply_published_host(settings: Settings) -> Settings:
    """Return the settings with anonymous clients allowed where the published address is loopback.

    Raises SettingsError where other machines reach the published address, there is no key, and
    ALLOW_ANONYMOUS is not set.
    """
    gateway = settings.gateway
    has_keys = bool(gateway.api_keys or gateway.api_keys_file)
    if not gateway.published_host or has_keys or gateway.allow_anonymous:
        return settings
    if _is_loopback(gateway.published_host):
        return replace(settings, gateway=replace(gateway, allow_anonymous=True))
    raise SettingsError(
        f"GATEWAY_HOST: {gateway.published_host} is open to other machines, and there is "
        f"no API key; set"
        " API_KEYS_FILE or API_KEYS, or leave GATEWAY_HOST at 127.0.0.1, or set "
        "ALLOW_ANONYMOUS=1 to serve"
        " every machine without a key"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
