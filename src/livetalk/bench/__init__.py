"""How fast a model runs: the one place in the package that reads a clock and waits for a device."""
