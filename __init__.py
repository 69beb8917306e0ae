"""samplerbench: compare diffusion samplers by FID, CLIP score and wall time.

The public names are imported on demand, so that nothing waits for torch that does not need it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bench.conformance.card import Finding as Finding
    from .bench.conformance.check import check as check
    from .bench.run import Result as Result
    from .bench.run import run as run
    from .samplers.errors import InputError as InputError
    from .samplers.errors import ModelError as ModelError
    from .samplers.errors import PluginError as PluginError
    from .samplers.errors import SamplerbenchError as SamplerbenchError
    from .samplers.errors import StoreError as StoreError
    from .samplers.exact import GaussianMixture as GaussianMixture
    from .samplers.exact import exact_model as exact_model
    from .samplers.extractor import Extractor as Extractor
    from .samplers.grid import Grid as Grid
    from .samplers.image_data import ImageData as ImageData
    from .samplers.level import Level as Level
    from .samplers.metric import Estimate as Estimate
    from .samplers.metric import Metric as Metric
    from .samplers.model import Model as Model
    from .samplers.model import wrap_network as wrap_network
    from .samplers.options import File as File
    from .samplers.plugin import API_VERSION as API_VERSION
    from .samplers.plugin import hookimpl as hookimpl
    from .samplers.predictor import NetworkFault as NetworkFault
    from .samplers.predictor import Prediction as Prediction
    from .samplers.predictor import dynamic_threshold as dynamic_threshold
    from .samplers.sample import Samples as Samples
    from .samplers.sample import list_samplers as list_samplers
    from .samplers.sample import load_model as load_model
    from .samplers.sample import make_sampler as make_sampler
    from .samplers.sample import sample as sample
    from .samplers.sampler import Run as Run
    from .samplers.sampler import Sampler as Sampler
    from .samplers.sampler import SamplerFault as SamplerFault
    from .samplers.schedule import Schedule as Schedule
    from .samplers.schedule import edm as edm
    from .samplers.schedule import flow as flow
    from .samplers.schedule import rescale_zero_terminal_snr as rescale_zero_terminal_snr
    from .samplers.schedule import vp_cosine as vp_cosine
    from .samplers.schedule import vp_from_alphas_cumprod as vp_from_alphas_cumprod
    from .samplers.schedule import vp_linear as vp_linear
    from .samplers.schedule import vp_scaled_linear as vp_scaled_linear

_HOMES = {
    "bench.conformance.card": ("Finding",),
    "bench.conformance.check": ("check",),
    "bench.run": ("Result", "run"),
    "samplers.errors": ("InputError", "ModelError", "PluginError", "SamplerbenchError", "StoreError"),
    "samplers.exact": ("GaussianMixture", "exact_model"),
    "samplers.extractor": ("Extractor",),
    "samplers.grid": ("Grid",),
    "samplers.image_data": ("ImageData",),
    "samplers.level": ("Level",),
    "samplers.metric": ("Estimate", "Metric"),
    "samplers.model": ("Model", "wrap_network"),
    "samplers.options": ("File",),
    "samplers.plugin": ("API_VERSION", "hookimpl"),
    "samplers.predictor": ("NetworkFault", "Prediction", "dynamic_threshold"),
    "samplers.sample": ("Samples", "list_samplers", "load_model", "make_sampler", "sample"),
    "samplers.sampler": ("Run", "Sampler", "SamplerFault"),
    "samplers.schedule": (
        "Schedule", "edm", "flow", "rescale_zero_terminal_snr", "vp_cosine", "vp_from_alphas_cumprod", "vp_linear",
        "vp_scaled_linear",
    ),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605  (the names above, once)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
