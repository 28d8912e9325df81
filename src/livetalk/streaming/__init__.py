"""Streaming generation: video chunks from live audio, with all state held in values."""
