"""A serving machine on a virtual clock: the real planner, invented listeners, stage costs from a table."""
