"""Engines, which decide where a chunk is drawn, with the default one."""
