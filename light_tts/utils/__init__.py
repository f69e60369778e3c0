"""Modules that commands of the guides name."""
