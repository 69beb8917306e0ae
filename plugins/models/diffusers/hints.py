"""Hints for inputs that are refused by kind: one line says what the input is and what works instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ....samplers.errors import ModelError
from ....samplers.files.weights import read_stored

PICKLES, SINGLE = (".ckpt", ".pt", ".pth", ".bin"), ".safetensors"
EDM = (
    "preconditions state and time by sigma_data (Karras et al. 2022); a U-Net on pixels works as edm:FOLDER, any other "
    "network as a function that returns sb.wrap_network(D, sb.edm(), shape, predicts='x0')"
)
VE = "is of a process in sigma without preconditioning; a function that returns sb.wrap_network(...) says what it is"
CONSISTENCY = (
    "is of a consistency model in sigma (Song et al. 2023), which has no alpha; a function that returns "
    "sb.wrap_network(D, sb.edm(), shape, predicts='x0') makes a model of it"
)
FLOW = "is of a flow; these are read: StableDiffusionPipeline, StableDiffusion3Pipeline, FluxPipeline"
OTHER_FLOW = "has the times of a FlowMatchEulerDiscreteScheduler: write that as its class, since grids are chosen here"
SCHEDULERS: Mapping[str, str] = {
    "CMStochasticIterativeScheduler": CONSISTENCY,
    "EDMDPMSolverMultistepScheduler": EDM,
    "EDMEulerScheduler": EDM,
    "FlowMatchEulerDiscreteScheduler": FLOW,
    "FlowMatchHeunDiscreteScheduler": FLOW,
    "FlowMatchLCMScheduler": FLOW,
    "KarrasVeScheduler": VE,
    "ScoreSdeVeScheduler": VE,
}
"""Class of a scheduler -> the kind of model that it belongs to, by its name."""
PIPELINES: Mapping[str, str] = {
    "LatentConsistencyModelPipeline": (
        "tells its network the guidance by an embedding (time_cond_proj_dim), which is not done here; a model with an "
        "LCM-LoRA merged into it, saved as a StableDiffusionPipeline or StableDiffusionXLPipeline, works"
    ),
    "StableDiffusionImg2ImgPipeline": "is a StableDiffusionPipeline by its parts: write that as _class_name",
    "StableDiffusionXLImg2ImgPipeline": "is a StableDiffusionXLPipeline by its parts: write that as _class_name",
}
KINDS_OF_FILES = (
    ("lora_", "weights of a LoRA, which change a model; merge them into it with fuse_lora of diffusers", ""),
    (".lora", "weights of a LoRA, which change a model; merge them into it with fuse_lora of diffusers", ""),
    ("joint_blocks.", "a single-file checkpoint of Stable Diffusion 3", "StableDiffusion3Pipeline"),
    ("double_blocks.", "a single-file checkpoint of Flux", "FluxPipeline"),
    ("conditioner.embedders.1", "a single-file checkpoint of Stable Diffusion XL", "StableDiffusionXLPipeline"),
    ("model.diffusion_model.", "a single-file checkpoint of Stable Diffusion", "StableDiffusionPipeline"),
)
"""Part of a tensor's name -> what a file with it is, and the pipeline of diffusers that reads it whole."""


def is_single_file(path: Path) -> bool:
    """Whether a path is a file of weights, which no folder describes."""
    return path.suffix.lower() in (SINGLE, *PICKLES) and path.is_file()


def refuse_single_file(path: Path, spec: str) -> None:
    """ModelError for a file where a folder is expected, with the way to make one of it."""
    if path.suffix.lower() in PICKLES:
        raise ModelError(
            f"model {spec!r}: a {path.suffix} file can run code and is never read; expected a folder with safetensors: "
            "where you trust the file, from_single_file and save_pretrained of diffusers make one of it"
        )
    if path.suffix.lower() != SINGLE:
        raise ModelError(f"model {spec!r}: a file; expected a folder, as save_pretrained of diffusers writes")
    names = read_stored(path).shapes
    for part, what, pipeline in KINDS_OF_FILES:
        if any(part in name for name in names):
            raise ModelError(f"model {spec!r}: {what}{_way(path, pipeline)}")
    raise ModelError(
        f"model {spec!r}: weights without the configs that say what they are of; expected a folder, as save_pretrained "
        "of diffusers writes, or a function that returns sb.wrap_network(...), as in file.py:function"
    )


def _way(path: Path, pipeline: str) -> str:
    if not pipeline:
        return ""
    return f'; expected a folder, made by diffusers.{pipeline}.from_single_file("{path.name}").save_pretrained("DIR")'


def on_part(name: str, cls: str, accepted: Sequence[str]) -> str:
    """The hint for a part of a class that is not accepted; '' = no hint."""
    if name != "scheduler" or cls not in SCHEDULERS:
        return ""
    both_flows = SCHEDULERS[cls] is FLOW and any(SCHEDULERS.get(other) is FLOW for other in accepted)
    return f"; a {cls} {OTHER_FLOW if both_flows else SCHEDULERS[cls]}"


def on_pipeline(cls: str) -> str:
    """The hint for a pipeline that is not supported; '' = no hint."""
    return f"; a {cls} {PIPELINES[cls]}" if cls in PIPELINES else ""
