"""Fast forms of the networks, put in place from outside: fused kernels, FP8 products, graphs, compilation."""
