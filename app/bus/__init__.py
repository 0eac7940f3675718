"""The log: its contract, and two back ends."""
