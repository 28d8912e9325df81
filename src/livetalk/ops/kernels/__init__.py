"""Fused kernels: their interface, a plain twin in PyTorch, and Triton."""
