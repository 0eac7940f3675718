"""The bus that the settings name. A new one is a module here, a line in this table and a parameter
in the contract suite.
"""

from importlib import import_module

from app.bus.base import Bus
from app.config.bus_settings import BusSettings
from app.errors import SettingsError

BUSES = {"memory": "app.bus.memory.bus:MemoryBus", "kafka": "app.bus.kafka.bus:KafkaBus"}


def make_bus(settings: BusSettings, *, shared: bool = False) -> Bus:
    """Not started yet; its module is imported only now. `shared`: it must be one that several
    processes see.

    Raises SettingsError.
    """
    if (shared or settings.is_kafka) and not settings.servers:
        raise SettingsError(
            "BOOTSTRAP_SERVERS: is not set; for example BOOTSTRAP_SERVERS=localhost:9093"
        )
    module, _, name = BUSES["kafka" if shared or settings.is_kafka else "memory"].partition(":")
    bus: Bus = getattr(import_module(module), name)(settings)
    return bus
