"""What a machine can run: its environment, and the memory and time that a model needs."""
