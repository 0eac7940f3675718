"""From the consumer group to a running job: buffers, scheduling, take-over, dead letters."""
