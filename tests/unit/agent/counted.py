"""What the worker's metrics have counted."""

from app.telemetry.metrics import REGISTRY
from tests.unit.scene import MODEL


def counted(name: str, **labels: str) -> float:
    """Of `llm_gateway_<name>_total` for the tests' model; 0 where it was never counted."""
    return REGISTRY.get_sample_value(f"llm_gateway_{name}_total", {"model": MODEL, **labels}) or 0.0
