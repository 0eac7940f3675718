"""Finds and follows replies in the log by their ids."""
