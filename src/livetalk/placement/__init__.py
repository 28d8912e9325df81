"""Placement and storage of weights: one byte per entry, offload to host memory."""
