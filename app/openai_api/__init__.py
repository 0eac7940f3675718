"""Bodies, forms and server-sent events of OpenAI's API, and the table of endpoints. Pure."""
