"""The embedded features as a torch-fidelity extractor, for its command line, its metrics and our tests."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ....samplers.files.weights import load_weights
from .networks import FOLDER, FeatureNet

NAME = "samplerbench-fashion-mnist"
LAYER = "64"


def register_with_torch_fidelity() -> str:
    """Make the extractor known to torch-fidelity (once) and return the name to pass as feature_extractor."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    class FashionMNISTFeatures(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity has no types
        """uint8 (B, 1 or 3, 28, 28), grey -> the 64 features."""

        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.network = load_weights(FeatureNet(), FOLDER / "features.safetensors")
            self.eval()

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return (LAYER,)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return LAYER

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (self.network.features(images[:, :1]),)

    if NAME not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(NAME, FashionMNISTFeatures)
    return NAME
