"""One job: the call of the engine, and its reply on the way into the log."""
