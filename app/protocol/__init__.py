"""Records on the log, request ids, heartbeats, topics, and who may write a reply. Pure: no clock,
no network, no bus.
"""
