"""Inference of one model on several GPUs: meshes of ranks, collectives, and sharded attention and VAE."""
