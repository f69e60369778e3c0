"""Settings for known machines and purposes, as data."""
