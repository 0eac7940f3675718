"""An OpenAI-compatible gateway with one Kafka topic and one worker group per model."""

__version__ = "0.1.0"
