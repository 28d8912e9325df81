"""livetalk: one portrait and a live voice in, a talking avatar out."""

__version__ = "0.1.0"
