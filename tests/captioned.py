"""Images with captions, and with captions that are false of them, for trainings that learn text."""

import torch

import samplerbench


class Captioned(samplerbench.ImageData):
    """Black images; for each a number of captions that are false of it."""

    name, fingerprint = "captioned", ""

    def __init__(self, false):
        self.false = false

    def __len__(self):
        return len(self.false)

    def image(self, i):
        """Image i."""
        return torch.zeros(3, 4, 4, dtype=torch.uint8)

    def caption(self, i):
        """Its caption."""
        return f"caption {i}"

    def contraries(self, i):
        """What is false of it."""
        return tuple(f"false {k}" for k in range(self.false[i]))
