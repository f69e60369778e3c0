"""Speech tokens to waveform."""
