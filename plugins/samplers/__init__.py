"""The samplers, one paper and one sampler a file."""
