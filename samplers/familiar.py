"""What the names of other tools are here: of samplers, of their schedules, and of the settings beside them.

A sampler says its best-known names itself (`Sampler.aliases`). Here stand the names that differ by what tools append to
them ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde_gpu", "HeunDiscreteScheduler"), and what to take for those that name
nothing here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .options import parse_spec

TOOLS: dict[str, tuple[str, ...]] = {
    "A1111": (
        "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler",
        "LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "DDIM CFG++", "PLMS", "UniPC",
        "LCM", "DPM++ 2M Karras", "DPM++ SDE Karras", "DPM++ 2M SDE Karras", "DPM++ 2M SDE Exponential",
        "DPM++ 2M SDE Heun Karras", "DPM++ 2M SDE Heun Exponential", "DPM++ 3M SDE Karras", "DPM++ 3M SDE Exponential",
        "DPM++ 2S a Karras", "LMS Karras", "DPM2 Karras", "DPM2 a Karras", "Euler a Karras",
    ),
    "ComfyUI": (
        "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0",
        "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral",
        "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde",
        "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm",
        "lcm", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral",
        "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde", "seeds_2",
        "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
    ),
    "diffusers": (
        "DDIMScheduler", "DDIMInverseScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler",
        "DDPMWuerstchenScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
        "DPMSolverMultistepInverseScheduler", "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler",
        "CosineDPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler", "EDMEulerScheduler",
        "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler", "HeunDiscreteScheduler", "IPNDMScheduler",
        "KarrasVeScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler",
        "LMSDiscreteScheduler", "LTXEulerAncestralRFScheduler", "PNDMScheduler", "RePaintScheduler",
        "SASolverScheduler", "SCMScheduler", "ScoreSdeVeScheduler", "ScoreSdeVpScheduler", "TCDScheduler",
        "UnCLIPScheduler", "UniPCMultistepScheduler", "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler",
        "CMStochasticIterativeScheduler", "ConsistencyDecoderScheduler", "VQDiffusionScheduler", "AmusedScheduler",
    ),
}  # fmt: skip
"""The samplers that each tool offers, as it spells them."""

NOTES = {
    ("A1111", "UniPC"): "there by default the variant bh1, `unipc:variant=bh1`; here bh2, as in diffusers",
    ("ComfyUI", "uni_pc"): "there the variant bh1, `unipc:variant=bh1`; here bh2, as in diffusers",
    ("A1111", "DPM fast"): "there the number of steps is that of calls: give it as `--nfe`",
    ("ComfyUI", "dpm_fast"): "there the number of steps is that of calls: give it as `--nfe`",
}
"""Names that are understood, and mean something else in a tool, by tool and name."""

SPECS = {
    "dpmsolvermultistep": "dpm-solver++", "dpmsolversinglestep": "dpm-solver++-single",
    "edmdpmsolvermultistep": "dpm-solver++", "cosinedpmsolvermultistep": "dpm-solver++-sde",
    "cogvideoxdpm": "dpm-solver++-sde", "cogvideoxddim": "ddim", "edmeuler": "euler", "flowmatcheuler": "euler",
    "flowmatchheun": "heun:variable=t", "flowmatchlcm": "lcm", "kdpm2": "dpm2", "kdpm2a": "dpm2-a",
    "karrasve": "edm", "ddpmwuerstchen": "ddpm", "unclip": "ddpm", "dpmsolversde": "dpm-solver++-sde-single",
}  # fmt: skip
"""Names in the form of `canonical` -> the spec that they stand for, where that sampler is registered."""

SCHEDULES = {
    "automatic": "", "polyexponential": "polyexponential", "exponential": "exponential", "karras": "karras",
    "sgmuniform": "trailing", "ddimuniform": "leading", "simple": "trailing", "normal": "uniform",
    "uniform": "uniform", "kloptimal": "cosine", "alignyoursteps": "ays", "ays": "ays", "beta": "beta:variable=t",
}  # fmt: skip
"""The schedules of A1111 and ComfyUI in that form -> the grid here; '' = the model's own."""
SCHEDULES_AS_SPELT = (
    "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal", "Align Your Steps", "Simple", "Normal",
    "Uniform", "DDIM Uniform", "Beta", "Automatic",
)  # fmt: skip

TOKENS = "works on discrete tokens and not on noise, so no sampler here fits its model"
DISTILLED = "is for networks distilled to a few steps"
WITHOUT: dict[str, tuple[str, tuple[str, ...]]] = {
    "lcm": (DISTILLED, ("euler-a",)),
    "flowmatchlcm": (DISTILLED, ("euler-a",)),
    "tcd": (DISTILLED, ("euler-a",)),
    "scm": (f"{DISTILLED}, of SANA-Sprint", ("lcm", "euler-a")),
    "cmstochasticiterative": ("is the multistep sampling of consistency models", ("lcm", "euler-a")),
    "consistencydecoder": ("decodes latents and is no sampler", ()),
    "dpmppsde": ("is DPM-Solver++ for the SDE, singlestep, of two calls a step", ("seeds",)),
    "dpmsolversde": ("is DPM-Solver++ for the SDE, singlestep, of two calls a step", ("seeds",)),
    "heunpp2": ("is Heun with up to three slopes a step", ("heun",)),
    "expheun2x0": ("is an exponential Heun step on x0", ("dpm-solver++-single",)),
    "expheun2x0sde": ("is an exponential Heun step on x0 for the SDE", ("seeds",)),
    "ipndmv": ("is iPNDM with weights for unequal steps", ("lms",)),
    "resmultistep": ("is a second-order exponential multistep solver", ("dpm-solver++",)),
    "resmultistepa": ("is a second-order exponential multistep solver with ancestral noise", ("dpm-solver++-sde",)),
    "gradientestimation": ("is DDIM with a correction from the last step", ("ddim",)),
    "sasolverpece": ("is SA-Solver with a second call a step", ("sa-solver",)),
    "ltxeulerarf": ("is Euler ancestral on a flow", ("euler-a",)),
    "scoresdeve": ("is Euler-Maruyama with Langevin steps between", ("euler-a",)),
    "scoresdevp": ("is Euler-Maruyama on the reverse SDE", ("ddpm",)),
    "ddiminverse": ("goes from an image to its noise, which is no sampling", ("ddim",)),
    "dpmsolvermultistepinverse": ("goes from an image to its noise, which is no sampling", ("dpm-solver++",)),
    "repaint": ("fills in a part of an image and is no sampler of whole ones", ("ddpm",)),
    "vqdiffusion": (TOKENS, ()),
    "amused": (TOKENS, ()),
}
"""Names that may be without a sampler here, in the form of `canonical`: what they are, and what to take in their place,
the first that is registered. A sampler that brings the name as an alias comes first."""

DEVICES = ("gpu", "scheduler")
FAMILIES = ("discrete", "multistep", "parallel")
"""What diffusers puts between the name of a sampler and "Scheduler"."""
CFG_PP = "cfgpp"


@functools.lru_cache(maxsize=4096)  # asked for each name of each tool, once for each sampler
def canonical(name: str) -> str:
    """A name without case, spaces, dashes and a tool's prefix, "++" as pp and "ancestral" as a: one for all tools."""
    text = re.sub(r"[\s_-]+", "", re.sub(r"^(sample|k)_", "", name.strip().lower()))
    return text.replace("++", "pp").replace("ancestral", "a")


def readings(name: str) -> Iterator[tuple[str, str]]:
    """What a name may be short of what tools append to it: its forms in `canonical`, the whole first, with a grid."""
    text = canonical(name)
    yield text, ""
    # ComfyUI names the device behind a sampler, and diffusers the word "Scheduler".
    plain = without(text, DEVICES)
    schedules = [(plain.removesuffix(end), grid) for end, grid in SCHEDULES.items() if plain.endswith(end)]
    # The longest ending comes first in SCHEDULES: "polyexponential" is not "poly" and "exponential".
    short = [(without(form, DEVICES), grid) for form, grid in schedules if form]
    yield from ((plain, ""), *short)
    yield from ((without(form, FAMILIES), grid) for form, grid in ((plain, ""), *short))


def without(text: str, endings: tuple[str, ...]) -> str:
    """The text without these endings."""
    for ending in endings:
        text = text.removesuffix(ending)
    return text


def spec_for(name: str, aliases: Mapping[str, str]) -> str:
    """The spec that a name of another tool stands for, '' for an unknown one; `aliases` are names and aliases -> specs.

    A schedule at the end of the name becomes the grid.
    """
    known = {canonical(alias): spec for alias, spec in aliases.items()}
    for form, grid in readings(name):
        # What a registered sampler calls itself comes first, so that a plugin can take over a name of the list.
        spec = known.get(form, "")
        if not spec and form in SPECS and canonical(SPECS[form].partition(":")[0]) in known:
            spec = SPECS[form]
        if spec:
            return with_grid(spec, grid)
    return ""


def with_grid(spec: str, grid: str) -> str:
    """A spec on another grid; '' = its own. No spec stays none."""
    if not (spec and grid):
        return spec
    name, options = parse_spec(spec)
    given = {**options, "grid": grid}
    return f"{name}:{','.join(f'{key}={value}' for key, value in given.items())}"


class Advice(NamedTuple):
    """What to say of a name that is no sampler here."""

    what: str
    """What it is, as a clause."""
    instead: str
    """The spec to take in its place; '' = there is none."""

    @property
    def whole(self) -> str:
        """Both in a clause."""
        return f"{self.what}; take {self.instead}" if self.instead else self.what


def advice_on(name: str, aliases: Mapping[str, str]) -> Advice | None:
    """What a name of another tool is, and what to take here; None where the name is not known."""
    known = {canonical(alias): spec for alias, spec in aliases.items()}
    for form, grid in readings(name):
        if form in WITHOUT:
            what, instead = WITHOUT[form]
            return Advice(what, with_grid(next((one for one in instead if canonical(one) in known), ""), grid))
        if form.endswith(CFG_PP):
            # CFG++ changes what guidance does, so the plain sampler is the nearest.
            base = form.removesuffix(CFG_PP)
            nearest = known.get(base, "") or next(iter(WITHOUT.get(base, ("", ("",)))[1]), "")
            return Advice("is a sampler with another form of guidance, CFG++", with_grid(nearest, grid))
    return None


def grid_for(name: str) -> str:
    """The grid that a schedule of another tool is here; '' where the name is not known."""
    return SCHEDULES.get(canonical(name), "")
