"""Text ids to speech tokens: continuous batching on one network per style."""
