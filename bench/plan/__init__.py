"""What will be run: settings, cells, their keys, and what each metric reads."""
