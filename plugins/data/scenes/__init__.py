"""Captioned scenes that code draws: pictures of things at places on coloured grounds."""
