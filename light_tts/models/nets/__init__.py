"""The networks: torch only, knowing nothing of serving."""
