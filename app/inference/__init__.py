"""Submits a request and follows its reply, for every face: admission, pending requests,
idempotency, the request view.
"""
