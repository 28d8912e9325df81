"""The engine: streams of one model on one process or on many."""
