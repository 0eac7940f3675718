"""Heartbeats, which processes live, and which models they serve."""
