"""Operators shared by the networks: attention, rotary positions, normalisation."""
