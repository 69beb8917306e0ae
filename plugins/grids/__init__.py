"""The grids of noise levels."""
