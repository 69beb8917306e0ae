"""The switches that move numbers: read, put back, told, and part of what a run is known by."""

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import samplerbench as sb_
from cases import thinned
from samplerbench.bench.draw import chunk
from samplerbench.bench.draw.run_file import read_run
from samplerbench.bench.judge import statistics
from samplerbench.bench.plan import yardstick
from samplerbench.bench.plan.config import Config
from samplerbench.bench.plan.plan import plan_for
from samplerbench.plugins.metrics.fid import FID
from samplerbench.samplers import process
from samplerbench.samplers.process import set_switches, state_kept, switches
from samplerbench.samplers.registry import load_registry

TOY = str(Path(__file__).parents[1] / "toy.py")
REGISTRY = load_registry()
B = torch.backends
PRECISIONS = {
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "cuBLAS, older name": lambda: setattr(B.cuda.matmul, "allow_tf32", True),
    "cuDNN, older name": lambda: setattr(B.cudnn, "allow_tf32", False),
    "all": lambda: setattr(B, "fp32_precision", "tf32"),
    "all ieee": lambda: setattr(B, "fp32_precision", "ieee"),
    "cuDNN": lambda: setattr(B.cudnn, "fp32_precision", "ieee"),
    "cuDNN convolution": lambda: setattr(B.cudnn.conv, "fp32_precision", "ieee"),
    "cuBLAS": lambda: setattr(B.cuda.matmul, "fp32_precision", "tf32"),
    "oneDNN": lambda: B.mkldnn.set_flags(_fp32_precision="bf16"),
    "oneDNN matrices": lambda: setattr(B.mkldnn.matmul, "fp32_precision", "bf16"),
    "oneDNN, which sets all": lambda: setattr(B.mkldnn, "fp32_precision", "bf16"),
}
FP16 = "allow_fp16_reduced_precision_reduction"
OTHERS = {
    "torch.get_default_dtype": lambda: torch.set_default_dtype(torch.float64),
    f"torch.backends.cuda.matmul.{FP16}": lambda: setattr(B.cuda.matmul, FP16, False),
    "torch.backends.cuda.matmul.allow_fp16_accumulation": lambda: setattr(
        B.cuda.matmul, "allow_fp16_accumulation", True
    ),
    "torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed": lambda: B.cuda.allow_fp16_bf16_reduction_math_sdp(True),
    "torch.get_deterministic_debug_mode": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch.utils.deterministic.fill_uninitialized_memory": lambda: setattr(
        torch.utils.deterministic, "fill_uninitialized_memory", False
    ),
    "torch.set_flush_denormal": lambda: torch.set_flush_denormal(True),
    "torch.backends.cudnn.enabled": lambda: setattr(B.cudnn, "enabled", False),
    "torch.backends.cudnn.benchmark": lambda: setattr(B.cudnn, "benchmark", True),
    "torch.backends.cudnn.deterministic": lambda: setattr(B.cudnn, "deterministic", True),
    "torch.backends.mkldnn.enabled": lambda: setattr(B.mkldnn, "enabled", False),
    "torch.backends.mkldnn.deterministic": lambda: setattr(B.mkldnn, "deterministic", True),
    "torch.backends.nnpack.set_flags": lambda: B.nnpack.set_flags(False),
    "torch.backends.cuda.flash_sdp_enabled": lambda: B.cuda.enable_flash_sdp(False),
    "torch.backends.cuda.mem_efficient_sdp_enabled": lambda: B.cuda.enable_mem_efficient_sdp(False),
    "torch.backends.cuda.math_sdp_enabled": lambda: B.cuda.enable_math_sdp(False),
    "torch.backends.cuda.cudnn_sdp_enabled": lambda: B.cuda.enable_cudnn_sdp(False),
    "torch.backends.mha.get_fastpath_enabled": lambda: B.mha.set_fastpath_enabled(False),
    "torch.backends.cuda.preferred_blas_library": lambda: B.cuda.preferred_blas_library("cublaslt"),
    "torch.backends.opt_einsum.enabled": lambda: setattr(B.opt_einsum, "enabled", not B.opt_einsum.enabled),
    "torch.is_autocast_enabled('cpu')": lambda: torch.set_autocast_enabled("cpu", True),
    "torch.get_autocast_dtype('cuda')": lambda: torch.set_autocast_dtype("cuda", torch.bfloat16),
    "torch.is_autocast_cache_enabled": lambda: torch.set_autocast_cache_enabled(False),
    "NVIDIA_TF32_OVERRIDE": lambda: os.environ.update(NVIDIA_TF32_OVERRIDE="1"),
}
RUN = ("run", "--model", "mixture", "-s", "ddim", "--steps", "2", "-n", "8")


def everything():
    """All that is kept, as it is."""
    return {name: aspect.read() for name, aspect in process.ASPECTS.items()}


@pytest.mark.slow
@pytest.mark.further
def test_in_a_new_process_all_switches_are_as_usual():
    code = "from samplerbench.samplers.process import switches; print(switches())"
    env = {name: value for name, value in os.environ.items() if name not in process.VARIABLES}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "{}"


@pytest.mark.parametrize("name", OTHERS)
def test_a_switch_is_read_put_back_and_set_again(name):
    before = everything()
    with state_kept() as changed:
        OTHERS[name]()
        turned = switches()
        assert name in turned
    assert everything() == before
    assert len(changed) == 1
    assert name not in switches()
    with state_kept():
        set_switches(json.loads(json.dumps(turned)))
        assert switches() == turned
    assert everything() == before


@pytest.mark.parametrize("how", PRECISIONS)
def test_the_precision_of_float32_is_put_back_by_whatever_name_it_was_set(how):
    before = everything()
    with state_kept() as changed:
        PRECISIONS[how]()
        turned = switches()
    assert everything() == before
    assert changed == ["torch's float32 precision"]
    assert turned
    assert torch.get_float32_matmul_precision() == "highest"  # the older names still answer
    assert B.cudnn.allow_tf32
    assert not B.cuda.matmul.allow_tf32
    with state_kept():
        set_switches(json.loads(json.dumps(turned)))
        assert switches() == turned
    assert everything() == before


@pytest.mark.parametrize("second", ["medium", "all ieee", "cuDNN, older name", "oneDNN matrices"])
@pytest.mark.parametrize("first", PRECISIONS)
def test_what_the_user_had_set_is_what_is_put_back(first, second):
    def found():
        return {name: value for name, value in switches().items() if name.endswith("fp32_precision")}

    with state_kept():
        PRECISIONS[first]()
        before = found()
        with state_kept():
            PRECISIONS[second]()
        assert found() == before


def test_denormal_numbers_are_seen_by_a_product():
    assert not process.flushes_denormals()
    with state_kept() as changed:
        assert torch.set_flush_denormal(True)
        assert process.flushes_denormals()
    assert changed == ["torch's denormal numbers"]
    assert not process.flushes_denormals()


@pytest.mark.slow
def test_threads_between_operations_are_named_as_changed_for_good():
    code = (
        "import torch; from samplerbench.samplers import process\n"
        "with process.state_kept() as changed: torch.set_num_interop_threads(torch.get_num_interop_threads() + 1)\n"
        "print(process.changes_told(changed, ' while it was loaded'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "changed torch's interop threads (for good: a process sets it once) while it was loaded; "
        "what can be was put back\n"
    )


def test_filters_that_hide_a_warning_stay():
    with warnings.catch_warnings():
        with state_kept() as changed:
            warnings.filterwarnings("ignore", "a library's own")
            hidden = warnings.filters[0]
        assert changed == []
        assert hidden in warnings.filters
        with state_kept() as changed:
            warnings.simplefilter("error", FutureWarning)
        assert changed == ["which warnings are errors"]
        assert hidden in warnings.filters
        assert ("error", None, FutureWarning, None, 0) not in warnings.filters


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"torch.backends.cudnn.bench": True}, "switch 'torch.backends.cudnn.bench': this version knows no such"),
        ({"torch.get_default_dtype": "int65"}, "torch.get_default_dtype = 'int65': torch refuses that"),
        ({"torch.get_default_dtype": 5}, "torch refuses that"),
        ({"torch.backends.fp32_precision": "fp4"}, "torch refuses that"),
        ({"torch.get_autocast_dtype('cpu')": []}, "torch refuses that"),
        ({"NVIDIA_TF32_OVERRIDE": 1}, "torch refuses that"),
    ],
)
def test_switches_that_torch_does_not_have_are_refused(given, words):
    before = everything()
    with pytest.raises(sb_.InputError) as caught, state_kept():
        set_switches(given)
    assert words in str(caught.value)
    assert everything() == before


# A run


def planned():
    """The plan of a small run."""
    return plan_for(Config(model="mixture", sampler=("ddim",), steps=(2,), samples=8), REGISTRY)


@pytest.mark.parametrize("name", thinned(OTHERS, *list(OTHERS)[::3]))
def test_a_switch_that_is_not_as_usual_belongs_to_the_key(name):
    before = planned()
    with state_kept():
        OTHERS[name]()
        turned = planned()
    assert before.cells[0].key != turned.cells[0].key
    assert before.key != turned.key
    assert planned().key == before.key


MOVES = """
import torch
torch.set_float32_matmul_precision("medium")
from samplerbench import hookimpl
from samplerbench.plugins.samplers.ddim import DDIM

class Mine(DDIM):
    pass

@hookimpl
def samplerbench_samplers():
    torch.set_flush_denormal(True)
    return {"mine": Mine}
"""


def test_a_plugin_s_import_moves_no_number_of_a_built_in_sampler(sb, tmp_path):
    (tmp_path / "moves.py").write_text(MOVES)
    first = sb(*RUN, "--json", "-o", "first")
    done = sb(*RUN, "--json", "-o", "second", "--plugin", "moves.py")
    assert done.code == 0
    assert done.err.startswith(
        "Note: plugin moves.py changed torch's float32 precision, torch's denormal numbers while it was loaded; "
        "that was put back\n"
    )
    one, two = (read_run(tmp_path / name) for name in ("first", "second"))
    assert one.environment.switches == two.environment.switches == {}
    assert one.cells == two.cells
    assert json.loads(first.out)["table"][0]["ode_error"] == json.loads(done.out)["table"][0]["ode_error"]
    assert torch.get_float32_matmul_precision() == "highest"
    assert not process.flushes_denormals()


def test_a_run_records_the_switches_and_is_refused_under_others(sb, tmp_path):
    with state_kept():
        torch.set_float32_matmul_precision("medium")
        assert sb(*RUN, "-o", "run").code == 0
    recorded = read_run(tmp_path / "run").environment.switches
    assert recorded["torch.get_float32_matmul_precision"] == "medium"
    sb(*RUN, "-o", "run").refused(2, "belongs to another run", "torch.get_float32_matmul_precision: medium -> as usual")
    assert sb("verify", "run").code == 0  # drawn under the switches that the run had
    assert switches() == {}


def test_switches_of_a_run_that_are_none_are_refused_by_verify(sb, tmp_path, edited):
    assert sb(*RUN, "-o", "run").code == 0
    edited(tmp_path / "run", environment__switches={"torch.turbo": True})
    sb("verify", "run").refused(2, "switch 'torch.turbo'")
    edited(tmp_path / "run", environment__switches=[1])
    sb("verify", "run").refused(5, "damaged (environment.switches: expected object, got array)")


MODEL = """
import torch
import samplerbench as sb

torch.set_float32_matmul_precision("high")

def make():
    torch.manual_seed(0)
    torch.set_num_threads(torch.get_num_threads() + 1)
    return sb.wrap_network(lambda x, t: 0.5 * x, sb.vp_linear(), (2,), fingerprint="1")
"""


def test_a_model_s_file_that_turns_a_switch_is_named_and_the_switch_put_back(sb, tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    before = everything()
    done = sb("run", "--model", "model.py:make", "-s", "ddim", "--steps", "2", "-n", "8", "--dry-run")
    assert done.code == 0
    assert done.err == (
        "Note: model 'model.py:make' changed torch's threads, torch's float32 precision while it was loaded; "
        "that was put back\n"
    )
    assert everything() == before | {"the current folder": str(tmp_path)}


def test_an_extractor_that_turns_a_switch_for_itself_is_a_fault():
    plan = plan_for(Config(model="toy", sampler=("ddim",), steps=(2,), samples=8), load_registry([TOY]))
    features = plan.model.extractors["features"]

    def faster(images, prompts):
        torch.backends.cuda.matmul.allow_tf32 = True
        return features.extract(images, prompts)

    def random(images, prompts):
        torch.rand(1)
        np.random.rand()
        return features.extract(images, prompts)

    def extracted(extract):
        extractors = {"features": dataclasses.replace(features, extract=extract)}
        model = dataclasses.replace(plan.model, extractors=extractors)
        return chunk.extract_rows(model, "features", torch.zeros(2, 1, 8, 8, dtype=torch.uint8), ["left", "right"], 0)

    before = everything()
    assert extracted(random).shape == (2, 4)  # as when its weights are made
    with pytest.raises(sb_.PluginError, match=r"'features' changed torch's float32 precision; that was put back"):
        extracted(faster)
    assert everything() == before


@pytest.mark.parametrize("where", ["prepare", "estimate", "reference"])
def test_a_metric_that_turns_a_switch_is_a_fault(where):
    plan = plan_for(Config(model="toy", sampler=("ddim",), steps=(2,), samples=8), load_registry([TOY]))

    def turns(*_):
        torch.set_flush_denormal(True)
        return FID.prepare(*_) if where == "prepare" else np.zeros((100, 4), np.float32)

    mine = type("Mine", (FID,), {} if where == "reference" else {where: turns})
    features = plan.model.extractors["features"]
    features = dataclasses.replace(features, reference=turns if where == "reference" else features.reference)
    model = dataclasses.replace(plan.model, extractors={"features": features})
    before = everything()
    with pytest.raises(sb_.PluginError, match=r"metric 'fid'.* changed torch's denormal numbers; that was put back"):
        statistics.estimates(
            statistics.Gathered([], {"features": np.zeros((100, 4), np.float32)}),
            yardstick.yardsticks(["fid"], {"fid": mine}, model),
        )
    assert everything() == before


def test_an_encoder_that_turns_a_switch_is_put_right_where_a_run_is_planned(sb, tmp_path):
    encode = "return torch.stack("
    text = Path(TOY).read_text().replace(encode, f"torch.use_deterministic_algorithms(True)\n    {encode}")
    (tmp_path / "turning.py").write_text(text)
    command = ("run", "--model", "toy", "-s", "ddim", "--steps", "2", "-n", "8", "--plugin", "turning.py")
    assert sb(*command, "--dry-run").err == (
        "Note: plan of 'toy' changed torch's deterministic algorithms (an encoder or a grid did); that was put back\n"
    )
    assert "metric 'fid', or the extractor that it reads, changed torch's determ" in sb(*command).err
    assert switches() == {}


def test_the_ode_solution_leaves_the_process_as_it_was():
    plan = planned()

    def turning(device, dtype):
        torch.backends.cudnn.benchmark = True
        return plan.model.network(device, dtype)

    request = dataclasses.replace(plan.references[0], model=dataclasses.replace(plan.model, network=turning))
    before = everything()
    assert torch.equal(chunk.ode_solution([request], 2), chunk.ode_solution(plan.references, 2))
    assert everything() == before


@pytest.mark.slow
def test_a_child_computes_under_the_switches_of_its_parent(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMPLERBENCH_IN_PROCESS", "0")
    plugin = tmp_path / "mine.py"
    plugin.write_text(MOVES)
    with state_kept():
        torch.set_float32_matmul_precision("high")
        torch.set_autocast_enabled("cpu", True)
        result = sb_.run("mixture", ["mine", "ddim"], 2, 8, plugins=[str(plugin)], output=tmp_path / "run")
    assert result.table["status"].tolist() == ["ok", "ok"]
    assert result.table["same_as"].tolist()[1] == "mine"


def test_an_autocast_that_was_never_left_is_left():
    """Its count too: within a context torch keeps casts of weights, which a later training would compute with."""
    before = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    with state_kept() as changed:
        torch.autocast("cpu", dtype=torch.bfloat16).__enter__()
    assert changed == ["torch's autocast"]
    assert torch.autocast_increment_nesting() == before
    torch.autocast_decrement_nesting()
