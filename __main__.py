"""`python -m samplerbench`: the program, where something else starts Python, as torchrun does."""

from .bench.cli import main

if __name__ == "__main__":
    main()
