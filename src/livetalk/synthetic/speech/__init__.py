"""Synthesised speech with timed phonemes, and the speech corpus."""
