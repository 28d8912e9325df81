"""Training of the VAE, its reference decoder, and the DiT by flow matching on 33-frame windows."""
