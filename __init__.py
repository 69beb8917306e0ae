"""samplerbench: compare diffusion samplers by FID, CLIP score and wall time.

The public names are imported on demand, so that nothing waits for torch that does not need it.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bench.conformance.card import Finding as Finding
    from .bench.conformance.check import check as check
    from .bench.draw.engines.elsewhere import draw_job as draw_job
    from .bench.run import Result as Result
    from .bench.run import run as run
    from .bench.score import Score as Score
    from .bench.score import score as score
    from .samplers.engine import Done as Done
    from .samplers.engine import Drawn as Drawn
    from .samplers.engine import Engine as Engine
    from .samplers.engine import EngineFactory as EngineFactory
    from .samplers.engine import Failure as Failure
    from .samplers.engine import Job as Job
    from .samplers.engine import Work as Work
    from .samplers.errors import InputError as InputError
    from .samplers.errors import ModelError as ModelError
    from .samplers.errors import PluginError as PluginError
    from .samplers.errors import SamplerbenchError as SamplerbenchError
    from .samplers.errors import StoreError as StoreError
    from .samplers.exact import GaussianMixture as GaussianMixture
    from .samplers.exact import exact_model as exact_model
    from .samplers.extractor import Extractor as Extractor
    from .samplers.extractor import ExtractorFactory as ExtractorFactory
    from .samplers.factories import ReadsPaths as ReadsPaths
    from .samplers.files.sent import SentFiles as SentFiles
    from .samplers.grid import Grid as Grid
    from .samplers.grid import Levels as Levels
    from .samplers.image_data import ImageData as ImageData
    from .samplers.image_data import ImageDataFactory as ImageDataFactory
    from .samplers.level import Level as Level
    from .samplers.metric import Estimate as Estimate
    from .samplers.metric import Floats as Floats
    from .samplers.metric import Metric as Metric
    from .samplers.metric import Moments as Moments
    from .samplers.metric import Rows as Rows
    from .samplers.metric import Strata as Strata
    from .samplers.metric import check_rows as check_rows
    from .samplers.metric import in_blocks as in_blocks
    from .samplers.metric import mean_estimate as mean_estimate
    from .samplers.metric import root_mean_estimate as root_mean_estimate
    from .samplers.metric import rows_needed as rows_needed
    from .samplers.model import Encode as Encode
    from .samplers.model import Model as Model
    from .samplers.model import ModelWithData as ModelWithData
    from .samplers.model import NetworkLoader as NetworkLoader
    from .samplers.model import Progress as Progress
    from .samplers.model import Range as Range
    from .samplers.model import TrainableModel as TrainableModel
    from .samplers.model import TrainableOnImages as TrainableOnImages
    from .samplers.model import to_images as to_images
    from .samplers.model import wrap_network as wrap_network
    from .samplers.noise import NoiseFunction as NoiseFunction
    from .samplers.options import File as File
    from .samplers.plugin import API_VERSION as API_VERSION
    from .samplers.plugin import ModelFactory as ModelFactory
    from .samplers.plugin import hookimpl as hookimpl
    from .samplers.predictor import Clip as Clip
    from .samplers.predictor import DynamicThreshold as DynamicThreshold
    from .samplers.predictor import Hints as Hints
    from .samplers.predictor import Network as Network
    from .samplers.predictor import NetworkFault as NetworkFault
    from .samplers.predictor import Prediction as Prediction
    from .samplers.predictor import Predictor as Predictor
    from .samplers.predictor import Predicts as Predicts
    from .samplers.predictor import Question as Question
    from .samplers.predictor import Timesteps as Timesteps
    from .samplers.predictor import dynamic_threshold as dynamic_threshold
    from .samplers.sample import Samples as Samples
    from .samplers.sample import list_samplers as list_samplers
    from .samplers.sample import load_data as load_data
    from .samplers.sample import load_model as load_model
    from .samplers.sample import make_sampler as make_sampler
    from .samplers.sample import sample as sample
    from .samplers.sampler import Past as Past
    from .samplers.sampler import Sampler as Sampler
    from .samplers.sampler import SamplerFault as SamplerFault
    from .samplers.sampler import StepContext as StepContext
    from .samplers.schedule import EDM as EDM
    from .samplers.schedule import VP as VP
    from .samplers.schedule import Flow as Flow
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
    "bench.draw.engines.elsewhere": ("draw_job",),
    "bench.run": ("Result", "run"),
    "bench.score": ("Score", "score"),
    "samplers.engine": ("Done", "Drawn", "Engine", "EngineFactory", "Failure", "Job", "Work"),
    "samplers.files.sent": ("SentFiles",),
    "samplers.errors": ("InputError", "ModelError", "PluginError", "SamplerbenchError", "StoreError"),
    "samplers.exact": ("GaussianMixture", "exact_model"),
    "samplers.extractor": ("Extractor", "ExtractorFactory"),
    "samplers.factories": ("ReadsPaths",),
    "samplers.grid": ("Grid", "Levels"),
    "samplers.image_data": ("ImageData", "ImageDataFactory"),
    "samplers.level": ("Level",),
    "samplers.metric": (
        "Estimate", "Floats", "Metric", "Moments", "Rows", "Strata", "check_rows", "in_blocks", "mean_estimate",
        "root_mean_estimate", "rows_needed",
    ),
    "samplers.model": (
        "Encode", "Model", "ModelWithData", "NetworkLoader", "Progress", "Range", "TrainableModel", "TrainableOnImages",
        "to_images", "wrap_network",
    ),
    "samplers.noise": ("NoiseFunction",),
    "samplers.options": ("File",),
    "samplers.plugin": ("API_VERSION", "ModelFactory", "hookimpl"),
    "samplers.predictor": (
        "Clip", "DynamicThreshold", "Hints", "Network", "NetworkFault", "Prediction", "Predictor", "Predicts",
        "Question", "Timesteps", "dynamic_threshold",
    ),
    "samplers.sample": ("Samples", "list_samplers", "load_data", "load_model", "make_sampler", "sample"),
    "samplers.sampler": ("Past", "Sampler", "SamplerFault", "StepContext"),
    "samplers.schedule": (
        "EDM", "Flow", "Schedule", "VP", "edm", "flow", "rescale_zero_terminal_snr", "vp_cosine",
        "vp_from_alphas_cumprod", "vp_linear", "vp_scaled_linear",
    ),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

_RENAMED: dict[str, tuple[str, str]] = {"Run": ("StepContext", "0.1")}
"""Old public name -> (new name, version that renamed it). The old name works for two minor versions, with a warning."""

__all__ = sorted(_HOME_OF)  # noqa: PLE0605  (the names above, once)

if not TYPE_CHECKING:  # a type checker that saw this would take any name for one of ours

    def __getattr__(name: str) -> object:
        if name in _RENAMED:
            new, since = _RENAMED[name]
            warnings.warn(_rename_warning(name, new, since), DeprecationWarning, stacklevel=2)
            name = new
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)


def _rename_warning(old: str, new: str, since: str) -> str:
    """The text of the warning; docs/plugins.md states the rule."""
    major, minor = since.split(".")[:2]
    removed_in = f"{major}.{int(minor) + 2}"
    return f"samplerbench.{old} was renamed to {new} in {since}; the old name will be removed in {removed_in}"


def __dir__() -> list[str]:
    return __all__
