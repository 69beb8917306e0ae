"""The networks of the built-in models, and how they are trained."""
