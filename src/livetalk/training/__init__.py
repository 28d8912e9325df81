"""Training of the networks: VAE, then the DiT by flow matching on 33-frame windows."""
