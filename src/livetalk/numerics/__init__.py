"""Comparison of two ways to run one model, stage by stage."""
