"""How samples are drawn, clocked and stored, and by which process."""
