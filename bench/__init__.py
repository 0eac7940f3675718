"""Measures this gateway, and anything else that speaks the OpenAI API. docs/benchmarks.md says how;
nothing in app/ needs it.
"""
