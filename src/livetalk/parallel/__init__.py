"""Several ranks at one model: what is cut, what is exchanged, how the ranks are started."""
