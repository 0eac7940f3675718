"""The client of OpenAI-compatible upstreams over HTTP/1.1."""
