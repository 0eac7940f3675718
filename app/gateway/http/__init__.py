"""ASGI and HTTP/1.1: connections, headers, bodies, and the writing of replies."""
