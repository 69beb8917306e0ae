"""Everything that registers. Each module below this package is a plugin; one file is one thing."""
