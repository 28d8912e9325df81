"""How weights are stored and where they are: one-byte storage, offload to host memory."""
