"""What differs between checkpoints, and the networks."""
