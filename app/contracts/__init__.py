"""What crosses a wall: request bodies, records on the log, ids, topic names. Pure: no clock, no network, no bus."""
