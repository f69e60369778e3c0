"""Text and reference audio to what the models read. Runs on the CPU; imports neither the other stages nor a server."""
