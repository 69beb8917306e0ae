"""Numbers and verdicts -> tables, curves, pictures and pages."""
