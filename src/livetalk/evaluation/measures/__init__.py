"""One measure per module; `livetalk.evaluation.registry` lists them."""
