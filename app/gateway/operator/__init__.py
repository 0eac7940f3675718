"""What the operator's page shows."""
