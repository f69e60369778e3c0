"""Golden data against our modules, one row per tensor or case."""
