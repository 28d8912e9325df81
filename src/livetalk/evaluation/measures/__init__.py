"""One measure a module; `livetalk.evaluation.registry` lists them."""
