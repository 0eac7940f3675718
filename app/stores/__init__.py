"""State that gateways share beside the log: small values with a time to live."""
