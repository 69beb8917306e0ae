"""Files: written whole or not at all, locked, and read with care where a stranger made them."""
