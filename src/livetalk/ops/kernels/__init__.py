"""Several operations in one pass over memory: plain twins, Triton kernels, and the choice between them."""
