"""Measurement of speed and memory: the only package that reads a clock and synchronises with a device."""
