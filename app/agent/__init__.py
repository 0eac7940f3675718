"""The worker: takes the requests of one model, asks its engine, writes the replies."""
