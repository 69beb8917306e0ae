"""What was stored -> numbers and verdicts."""
