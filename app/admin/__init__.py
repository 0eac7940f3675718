"""The operator's commands: python -m app.admin keys|models|dlq."""
