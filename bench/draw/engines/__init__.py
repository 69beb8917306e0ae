"""Engines: where a chunk is drawn, and the one that a run has by default."""
