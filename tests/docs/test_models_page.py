"""docs/models.md: its example works as it stands there, and the models that it names are there."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import samplerbench as sb
from samplerbench.samplers.registry import load_registry

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def block(language):
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return text


def test_the_function_of_the_page_makes_a_model(tmp_path):
    path = tmp_path / "my_model.py"
    path.write_text(block("python"))
    made = sb.sample(f"{path}:make", "dpm-solver++", steps=3, n=2)
    assert made.images.shape == (2, 3, 32, 32)
    assert "--model my_model.py:make" in PAGE


@pytest.mark.slow
def test_the_configuration_of_the_page_makes_a_model(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    about = json.loads(block("json"))
    torch.manual_seed(0)
    # The page's network, but narrower: what is shown is how it is described.
    about["arguments"] |= {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "attention_head_dim": 4}
    save_file(diffusers.UNet2DModel(**about["arguments"]).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(about))
    made = sb.sample(f"edm:{tmp_path}", "heun", steps=2, n=1, prompts=["cat"], guidance=2.0)
    assert made.images.shape == (1, 3, 32, 32)


def test_the_models_of_the_page_are_those_that_are_registered():
    first_column = re.findall(r"^\| (`.*?) \|", PAGE, flags=re.MULTILINE)
    named = {name for cell in first_column for name in re.findall(r"`([a-z][a-z0-9-]*)(?::[^`]*)?`", cell)}
    own = {
        name
        for name, origin in load_registry().models.origins.items()
        if origin.plugin.startswith("samplerbench.plugins")
    }
    # What `train` writes has a page of its own, and is loaded by its folder.
    assert own - {"ddpm", "latent"} <= named
