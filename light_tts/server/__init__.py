"""The door: HTTP and WebSocket around a TTSEngine."""
