"""A latent diffusion model with text on the user's own images, in the folders of diffusers."""
