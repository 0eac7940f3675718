"""The engines by name; a new one is a file here, a line in this table and a parameter in its
contract suite.
"""

from importlib import import_module

from app.agent.engines.base import Engine
from app.config.model_entry import ModelEntry
from app.config.settings import WorkerSettings

ENGINES = {
    "http": "app.agent.engines.http.engine:HttpEngine",
    "echo": "app.agent.engines.echo:EchoEngine",
}


def make_engine(entry: ModelEntry, settings: WorkerSettings) -> Engine:
    """The engine that a model's entry names, not started yet. Its module is imported only now."""
    module, _, name = ENGINES[entry.engine].partition(":")
    engine: Engine = getattr(import_module(module), name)(entry, settings)
    return engine
