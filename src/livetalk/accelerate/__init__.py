"""Fast forms of the networks: fused kernels, FP8 products, CUDA graphs, compilation."""
