"""Synthesised speech with timed phonemes, and the corpus made of it."""
