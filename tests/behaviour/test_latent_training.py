"""`samplerbench train --latent`: a small Stable Diffusion from captioned images, which resumes and runs."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

import samplerbench
from captioned import Captioned
from cases import skip_module_without
from samplerbench.plugins.models.latent import losses, starting, training
from samplerbench.plugins.models.latent.networks import unet_of
from samplerbench.plugins.models.latent.settings import PRESETS, Preset, Settings
from samplerbench.plugins.models.latent.starting import Start, carry_over
from samplerbench.plugins.models.latent.tokens import PLACES, encoded, load_tokenizer, unknown_words, write_tokenizer
from samplerbench.samplers.errors import InputError
from samplerbench.samplers.nets import training as nets_training
from samplerbench.samplers.nets.feeding import FedLoss
from samplerbench.samplers.nets.training import step_generator
from samplerbench.samplers.registry import default_registry

skip_module_without("diffusers", "transformers")

SMALLEST = Preset((16, 16, 16), 16, 1, (16, 32), 1, 2, 2, 3, 1e-3)
IMAGES = 8
ASKED = ("train", "--latent", "--data", "photos", "--size", 16, "-b", 4, "-o", "out")


@pytest.fixture(autouse=True)
def smallest(monkeypatch):
    """Networks that learn nothing, in two or three steps; no look takes longer than the training."""
    monkeypatch.setitem(PRESETS, "tiny", SMALLEST)
    monkeypatch.setattr(training, "SHOWN_STEPS", 2)
    monkeypatch.setattr(training, "SHOWN", 2)


@pytest.fixture
def photos(tmp_path):
    """Images with captions."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(IMAGES):
        rng = np.random.default_rng(i)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {('red', 'blue')[i % 2]} thing, number {i}")
    return folder


def learn(output, data, report=lambda progress: None):
    """Train in this process, to the end or until the report raises."""
    learned = default_registry().models["latent"]
    return learned.train_on(
        samplerbench.load_data(str(data)), output=output, report=report, size=16, batch_size=4, precision="float32"
    )


def test_a_tokenizer_is_whole_or_not_there(photos, tmp_path, monkeypatch):
    def stopped(texts, folder):
        folder.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "write_tokenizer", stopped)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "out", photos)
    assert (tmp_path / "out" / "vae").exists()
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.endswith(("tokenizer", ".tmp"))] == []


def weights(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


# ---- From the command line ----


def test_a_trained_folder_runs_and_is_a_pipeline_of_diffusers(sb, photos, tmp_path):
    done = sb(*ASKED)
    assert (done.code, done.out) == (0, "out\n"), done.err
    assert "PSNR of" in done.err
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    with Image.open(tmp_path / "out" / "samples.png") as picture:
        assert picture.width >= 32
    model = samplerbench.load_model(str(tmp_path / "out"))
    drawn = samplerbench.sample(model, "ddim", steps=2, n=2, prompts=["a red thing", "a blue thing"], guidance=2.0)
    assert tuple(drawn.images.shape) == (2, 3, 16, 16)
    other = samplerbench.sample(model, "ddim", steps=2, n=2, prompts=["a blue thing", "a red thing"], guidance=2.0)
    assert not torch.equal(drawn.x, other.x)  # the prompts reach the network
    with pytest.warns(UserWarning, match=r"learned: 'redd' \(did you mean 'red'\?\), 'zebra'; images may"):
        samplerbench.sample(model, "ddim", steps=1, n=1, prompts=["a redd zebra, number 1", "a zebra"])
    (tmp_path / "asked.txt").write_text("a green thing")
    told = sb("run", "--model", "out", "-s", "ddim", "--steps", 2, "--prompts", "asked.txt", "--metric", "none",
              "--dry-run").err  # fmt: skip
    assert "Warning: prompts: words that the text encoder never learned: 'green'; images may not show them\n" in told
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None, local_files_only=True)
    assert pipeline.unet.config.cross_attention_dim == SMALLEST.text
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.slow
@pytest.mark.further
def test_a_stopped_training_goes_on_to_the_same_weights(photos, tmp_path):
    learn(tmp_path / "whole", photos)

    class StopError(Exception):
        """What ends a training from outside."""

    def stop_at(phase, step):
        def report(progress):
            if (progress.phase, progress.step) == (phase, step):
                raise StopError

        return report

    for place in (("images", 3), ("vae", 1), ("latents", IMAGES), ("text", 2), ("unet", 1)):
        with pytest.raises(StopError):
            learn(tmp_path / "stopped", photos, stop_at(*place))
    learn(tmp_path / "stopped", photos)
    found = weights(tmp_path / "stopped")
    assert found.keys() == {"unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
                            "text_encoder/model.safetensors"}  # fmt: skip
    assert found == weights(tmp_path / "whole")


def test_other_settings_do_not_resume(sb, photos):
    sb(*ASKED)
    sb(*ASKED, "--seed", 1).refused(2, "seed: 0 -> 1", "another output")
    sb(*ASKED, "--compile").refused(2, "compile: False -> True", "another output")


def test_only_the_unet_is_compiled():
    phases = {phase: training.recipe_of(Settings(compile=True), phase).compile for phase in Settings().lengths}
    assert phases == {"vae": False, "decoder": False, "text": False, "unet": True}
    assert not training.recipe_of(Settings(), "unet").compile


def test_the_batches_of_every_phase_are_made_ahead(photos, tmp_path, monkeypatch):
    learn(tmp_path / "plain", photos)
    made = []
    ahead = FedLoss.ahead
    monkeypatch.setattr(nets_training, "is_accelerator", lambda device: True)  # as if the CPU worked by itself
    monkeypatch.setattr(FedLoss, "ahead", lambda loss, steps: made.append(steps) or ahead(loss, steps))
    learn(tmp_path / "fed", photos)
    assert made == list(Settings().lengths.values())
    assert weights(tmp_path / "fed") == weights(tmp_path / "plain")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--size", 20), 2, ["size 20", "multiple of 16"]),
        (("--preset", "base"), 2, ["preset 'base'", "tiny, small"]),
        (("-b", 5), 4, ["8 images", "at least 10"]),
        (("--minutes", 3), 2, ["minutes"]),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_is_written(sb, photos, tmp_path, arguments, code, words):
    sb(*ASKED, *arguments).refused(code, *words)
    assert not (tmp_path / "out").exists()


def test_images_without_captions_are_refused(sb, photos, tmp_path):
    for text in photos.glob("*.txt"):
        text.unlink()
    sb(*ASKED).refused(4, "image 0 has no caption", "ddpm")
    assert not (tmp_path / "out").exists()


def test_latent_and_the_name_of_another_model_are_refused(sb, photos):
    sb("train", "ddpm", *ASKED[1:]).refused(2, "'ddpm' and --latent")


def test_a_folder_of_something_else_is_refused(sb, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    sb(*ASKED).refused(2, "letter.txt", "expected an empty folder")


# ---- The tokenizer ----


def test_each_word_of_the_captions_is_one_token_and_others_fall_into_letters(tmp_path):
    texts = ["two red trees, on a blue ground", "a tree above a bee", "three reeds", "an alarm clock"]
    write_tokenizer(texts, tmp_path / "words")
    tokenizer = load_tokenizer(tmp_path / "words")
    for word in {word.strip(",") for text in texts for word in text.split()}:
        assert len(tokenizer(word).input_ids) == 3, word  # start, the word, end
    assert len(tokenizer("zebra").input_ids) > 4
    rows = encoded(tokenizer, ["Two RED trees", "two red trees", ""])
    assert rows.shape == (3, PLACES)
    assert rows[0].tolist() == rows[1].tolist()
    assert rows[2].tolist() == [tokenizer.bos_token_id, *[tokenizer.eos_token_id] * (PLACES - 1)]
    assert int(rows.max()) < len(tokenizer)


def test_the_same_captions_make_the_same_tokenizer(tmp_path):
    rng = np.random.default_rng(0)
    # Many pairs of letters that are equally frequent.
    texts = [" ".join("".join(rng.choice(list("abcdefgh"), 4)) for _ in range(6)) for _ in range(50)]
    texts.append("naïve café 日本")
    made = []
    for number in range(5):
        folder = tmp_path / str(number)
        write_tokenizer(texts, folder)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert all(files == made[0] for files in made)
    tokenizer = load_tokenizer(tmp_path / "0")
    words = [word for word in " ".join(texts).split() if word.isascii()]  # others may be several words
    assert {len(tokenizer(word).input_ids) for word in words} == {3}  # each word is one token, between two others


def test_an_image_has_the_states_of_its_own_caption_and_the_one_behind_the_last_is_the_empty_text(tmp_path):
    captions = ["a red thing", "a blue thing", "a thing"]
    write_tokenizer(captions, tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")

    def text(input_ids):
        return type("Answer", (), {"last_hidden_state": input_ids})

    states = training.states_of(text, tokenizer, captions, torch.device("cpu"))
    assert torch.equal(
        states(torch.tensor([2, 0, 3, 1])),
        encoded(tokenizer, [captions[2], captions[0], "", captions[1]]).float(),
    )


# ---- The losses ----


class Told(losses.Pairs):
    """Unit vectors that the test gives."""

    def __init__(self, images, texts):
        nn.Module.__init__(self)
        self.of_images, self.of_texts = images, texts
        self.logit_scale = nn.Parameter(torch.tensor(1.5))

    def images(self, x):
        return self.of_images

    def texts(self, tokens):
        assert len(tokens) == len(self.of_texts)
        return self.of_texts


def test_an_image_has_to_tell_its_caption_from_its_own_contraries():
    rng = np.random.default_rng(0)
    images, texts = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.standard_normal((2, 5, 3)))
    images = images[:2]
    loss = losses.contrasting(
        torch.zeros(2, 3, 4, 4, dtype=torch.uint8), Captioned([2, 1]), lambda told: torch.zeros(len(told), 1),
        batch=2, seed=0, device=torch.device("cpu"),
    )  # fmt: skip
    order = losses.batch_of(0, 0, 2, 2).tolist()
    own = {0: [2, 3], 1: [4]} if order == [0, 1] else {0: [2], 1: [3, 4]}
    scaled = np.exp(1.5) * images @ texts.T
    by_image = [
        np.log(sum(np.exp(scaled[i, j]) for j in [0, 1, *own[i]])) - scaled[i, i] for i in range(2)
    ]  # the texts of the batch, and what is false of this image alone
    by_text = [np.log(np.exp(scaled[:, j]).sum()) - scaled[j, j] for j in range(2)]
    found = loss(Told(torch.tensor(images), torch.tensor(texts)), 0)
    assert found.item() == pytest.approx((np.mean(by_image) + np.mean(by_text)) / 2, rel=1e-6)


def test_the_unet_learns_v_of_scaled_latents_and_drops_a_tenth_of_the_captions():
    latents = torch.randn(64, 4, 2, 2, generator=step_generator(0, 0)).half()
    dropped = []

    class Zero(nn.Module):
        def forward(self, x, t, encoder_hidden_states):
            assert len(encoder_hidden_states) == len(x) == 32
            assert t.min() >= 0
            return type("Answer", (), {"sample": torch.zeros_like(x)})

    def states(numbers):
        dropped.extend((numbers == len(latents)).tolist())
        return torch.zeros(len(numbers), 1, 1)

    loss = losses.denoising(
        latents, states, prediction="v", scale=0.5, batch=32, seed=0, device=torch.device("cpu")
    )  # fmt: skip
    values = [float(loss(Zero(), step)) for step in range(60)]
    assert 0.06 < np.mean(dropped) < 0.14  # of 1,920, three deviations are 0.02
    # The mean square of alpha eps - sigma x0, for x0 of variance a fourth: between 1/4 and 1.
    schedule = samplerbench.vp_scaled_linear()
    abar = np.asarray(schedule.alphas_cumprod)
    assert np.mean(values) == pytest.approx(float(np.mean(abar + (1 - abar) / 4)), rel=0.05)


def test_the_unet_of_a_flow_learns_the_velocity_from_noise_to_images():
    heard = []

    class Knows(nn.Module):
        """Knows that every image is 3, so that x = (1 - t) 3 + t eps tells it the noise."""

        def forward(self, x, t, encoder_hidden_states):
            heard.extend(t.tolist())
            return type("Answer", (), {"sample": (x - 3) / (t.view(-1, 1, 1, 1) / 1000)})

    latents = torch.full((64, 4, 2, 2), 1.5).half()
    loss = losses.denoising(
        latents, lambda numbers: torch.zeros(len(numbers), 1, 1), prediction="flow", scale=2.0, batch=32, seed=0,
        device=torch.device("cpu"),
    )  # fmt: skip
    assert max(float(loss(Knows(), step)) for step in range(20)) < 1e-6
    assert min(heard) > 0
    assert max(heard) <= 1000
    assert np.mean(heard) == pytest.approx(500, rel=0.02)
    first = np.sort(heard[:32])
    assert (np.floor((first - 1e-3) / 1000 * 32) == np.arange(32)).all()  # one in each part


@pytest.mark.slow
def test_a_flow_starts_from_the_parts_of_another_model(sb, photos, tmp_path):
    assert sb(*ASKED).code == 0
    flow = (*ASKED[:-1], "flow", "--prediction", "flow", "--start-from", "out")
    done = sb(*flow)
    assert (done.code, done.out) == (0, "flow\n"), done.err
    before, after = weights(tmp_path / "out"), weights(tmp_path / "flow")
    assert {name for name in before if before[name] != after[name]} == {"unet/diffusion_pytorch_model.safetensors"}
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / "flow" / "tokenizer" / name).read_bytes() == (
            tmp_path / "out" / "tokenizer" / name
        ).read_bytes()
    phases = {line.split(",")[0] for line in (tmp_path / "flow" / "training.csv").read_text().splitlines()[1:]}
    assert phases == {"unet"}
    model, other = (samplerbench.load_model(str(tmp_path / name)) for name in ("flow", "out"))
    assert (model.predicts, model.schedule) == ("flow", samplerbench.flow())
    drawn, apart = (samplerbench.sample(of, "euler", 2, n=1, prompts=["a red thing"]).x for of in (model, other))
    assert not torch.equal(drawn, apart)
    # Its three steps are too few to lead far away from where it started.
    x, t, states = torch.randn(1, 4, 4, 4), torch.tensor([400.0]), torch.zeros(1, PLACES, SMALLEST.text)
    learned, start = (start_of(tmp_path / name).unet("flow")(x, t, states).sample for name in ("flow", "out"))
    assert 0 < float((learned - start).detach().square().mean() / start.detach().square().mean()) < 0.5
    sb(*flow[:-2]).refused(2, "start_from: ", "another output")
    sb(*flow, "--decoder-data", "photos").refused(2, "decoder_data and start_from")


@pytest.fixture
def others(photos, tmp_path):
    """Images with captions of other words."""
    folder = tmp_path / "others"
    folder.mkdir()
    for image in photos.glob("*.png"):
        (folder / image.name).write_bytes(image.read_bytes())
        (folder / image.name).with_suffix(".txt").write_text(f"a green frog, number {image.stem}")
    return folder


PHASES = {None: {"unet"}, "vae": {"vae", "decoder", "unet"}, "text": {"text", "unet"},
          "both": {"vae", "decoder", "text", "unet"}}  # fmt: skip
"""What is relearned -> the phases of the training."""


@pytest.mark.slow
@pytest.mark.parametrize("relearn", PHASES)
def test_what_is_relearned_of_another_model_changes_and_the_rest_stays(sb, photos, others, tmp_path, relearn):
    assert sb(*ASKED).code == 0
    asked = ["train", "--latent", "--data", "others", "--size", 16, "-b", 4, "-o", "next", "--start-from", "out"]
    asked += ["--relearn", relearn] * bool(relearn) + ["--decoder-data", "photos"] * (relearn in ("vae", "both"))
    done = sb(*asked)
    assert done.code == 0, done.err
    before, after = weights(tmp_path / "out"), weights(tmp_path / "next")
    parts = {"unet": True, "vae": relearn in ("vae", "both"), "text_encoder": relearn in ("text", "both")}
    assert {name.split("/")[0]: before[name] != after[name] for name in before} == parts
    configs = [json.loads((tmp_path / of / "vae" / "config.json").read_text()) for of in ("out", "next")]
    scales = [config["scaling_factor"] for config in configs]
    assert (scales[0] != scales[1]) == parts["vae"]  # that of the latents that the U-Net learns
    log = (tmp_path / "next" / "training.csv").read_text().splitlines()[1:]
    assert {line.split(",")[0] for line in log} == PHASES[relearn]
    # Words that the text encoder keeps not knowing are named; the words of the captions that it learned are known.
    told = {None: "'text'", "vae": "'both'"}.get(relearn)
    assert ("the text encoder never learned 'green', 'frog'; " in done.err) == (told is not None)
    assert told is None or f"to have it learn them, give relearn {told} and another output\n" in done.err
    config = json.loads((tmp_path / "next" / "tokenizer" / "tokenizer_config.json").read_text())
    assert ("frog" in config["known_words"]) == parts["text_encoder"]
    # The last phase is learned again, from the others as they are, and comes out the same.
    (tmp_path / "next" / "checkpoints" / "unet.pt").unlink()
    assert sb(*asked).code == 0
    assert weights(tmp_path / "next") == after
    again = (tmp_path / "next" / "training.csv").read_text().splitlines()[1 + len(log) :]
    assert {line.split(",")[0] for line in again} == {"unet"}
    if relearn == "text":
        sb(*asked[:-2]).refused(2, "relearn: 'text' -> ''", "another output")


def test_a_new_text_encoder_has_the_width_that_the_unet_reads(photos, tmp_path, monkeypatch):
    learn(tmp_path / "out", photos)
    monkeypatch.setitem(PRESETS, "tiny", replace(SMALLEST, text=48))
    for kept in ("", "vae"):
        assert Start.of(tmp_path / "out", Settings(16, relearn=kept))
    with pytest.raises(InputError, match=r"reads states of width 16, and the text encoder of preset 'tiny' gives 48"):
        Start.of(tmp_path / "out", Settings(16, relearn="text"))


@pytest.mark.parametrize("are_all", [False, True])
def test_captions_that_are_too_long_lose_no_training(sb, photos, tmp_path, are_all):
    for i in range(IMAGES if are_all else 1):
        (photos / f"{i}.txt").write_text(f"thing number {i}, " + "red " * 40)
    done = sb(*ASKED)
    assert done.code == 0, done.err
    assert f"captions: {IMAGES if are_all else 1} of 8 have more than 32 tokens; only their beginnings" in done.err
    prompts = (tmp_path / "out" / "prompts.txt").read_text().splitlines()
    assert prompts == [] if are_all else len(prompts) == IMAGES - 1 and not any("red red" in one for one in prompts)
    assert (tmp_path / "out" / "samples.png").is_file()


def test_an_autoencoder_that_goes_on_has_the_new_size(photos, tmp_path):
    learn(tmp_path / "out", photos)
    start = Start.of(tmp_path / "out", Settings(32))
    assert start.vae(torch.device("cpu")).config.sample_size == 32
    assert start.unet("v").config.sample_size == 8


def test_a_decoder_that_stays_takes_no_images(photos, tmp_path):
    learn(tmp_path / "out", photos)
    data, asked = samplerbench.load_data(str(photos)), Settings(16, batch_size=4, relearn="text")
    with pytest.raises(InputError, match=r"decoder_data and start_from: .* give relearn 'vae' or 'both'"):
        training.train_in(tmp_path / "next", data, data, asked, torch.device("cpu"), lambda progress: None,
                          tmp_path / "out")  # fmt: skip
    assert not (tmp_path / "next").exists()


def test_words_that_a_tokenizer_does_not_list_are_found_by_their_number(tmp_path):
    write_tokenizer(["a red cat"], tmp_path)
    captions = ["A cat, a dog", "two dogs: a dog and a red owl"]
    assert unknown_words(tmp_path, captions) == ["dog", "two", "dogs", "and", "owl"]
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({name: value for name, value in json.loads(config.read_text()).items()
                                  if name != "known_words"}))  # fmt: skip
    assert unknown_words(tmp_path, captions) == []


def test_an_autoencoder_that_learned_before_goes_on_gently_from_its_weights(photos, tmp_path, monkeypatch):
    learn(tmp_path / "out", photos)
    first = {}

    class SeenError(Exception):
        """What ends the training once its autoencoder was seen."""

    def look(network, loss, recipe, **how):
        first.update({name: value.clone() for name, value in network.state_dict().items()})
        assert all(parameter.requires_grad for parameter in network.parameters())
        raise SeenError

    monkeypatch.setattr(training, "fit", look)
    settings = Settings(16, batch_size=4, precision="float32", relearn="vae")
    place = training.Place(
        tmp_path / "next", samplerbench.load_data(str(photos)), None, settings, training.Ranks(),
        Start.of(tmp_path / "out", settings),
    )  # fmt: skip
    with pytest.raises(SeenError):
        training.train_vae(place, torch.zeros(8, 3, 16, 16, dtype=torch.uint8), torch.zeros(8), lambda progress: None)
    stored = safetensors.torch.load_file(tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(first[name], value.float()) for name, value in stored.items())
    usual, gently = (
        training.recipe_of(Settings(16, steps=3000, relearn=relearn), "vae") for relearn in ("", "vae")
    )  # fmt: skip
    assert (gently.lr, gently.steps) == (usual.lr / 2, usual.steps)


def start_of(folder):
    return Start.of(folder, Settings(16))


def test_a_time_of_a_flow_is_heard_as_the_timestep_with_the_same_ratio_of_noise(monkeypatch):
    monkeypatch.setattr(starting, "CARRYING_STEPS", 100)
    torch.manual_seed(0)
    unet = unet_of(replace(SMALLEST, unet=(64, 64)), 16).requires_grad_(True)
    kept = copy.deepcopy(unet)
    carry_over(unet, schedule := samplerbench.vp_scaled_linear())
    levels = [schedule.at_time(t) for t in range(20, 1000, 70)]
    after = torch.tensor([1000 * level.sigma / (level.alpha + level.sigma) for level in levels])
    before = torch.tensor([level.t for level in levels])
    with torch.no_grad():
        now, heard, unchanged = (
            net.time_embedding(net.time_proj(times)) for net, times in ((unet, after), (kept, before), (kept, after))
        )
    assert float((now - heard).square().mean()) < 0.3 * float((unchanged - heard).square().mean())
    changed = {name for name, value in unet.state_dict().items() if not torch.equal(value, kept.state_dict()[name])}
    assert changed
    assert all(name.startswith("time_embedding.") for name in changed)


@pytest.mark.slow
def test_a_flow_is_learned_from_nothing_too(sb, photos, tmp_path):
    assert sb(*ASKED, "--prediction", "flow").code == 0
    assert json.loads((tmp_path / "out" / "training.json").read_text())["prediction"] == "flow"
    assert samplerbench.load_model(str(tmp_path / "out")).predicts == "flow"
    sb(*ASKED).refused(2, "prediction: 'flow' -> 'v'", "another output")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--prediction", "eps"), 2, ["prediction 'eps'", "v, flow"]),
        (("--start-from", "nowhere"), 2, ["start_from nowhere: no such folder"]),
        (("--start-from", "photos"), 4, ["photos/model_index.json: no such file"]),
        (("--start-from", "sd"), 4, ["latents of shape (4, 8, 8) and texts of 77 tokens", "(4, 4, 4) and 32"]),
        (("--start-from", "pixels"), 4, ["a DDIMPipeline; expected what `train --latent"]),
        (("--start-from", "out", "--relearn", "texts"), 2, ["(did you mean 'text'?): expected vae, text, both"]),
        (("--relearn", "vae"), 2, ["relearn 'vae': of which model? give start_from too"]),
    ],
)
def test_what_no_training_starts_from_is_refused(sb, photos, tmp_path, tiny_models, arguments, code, words):
    for kind in {"sd", "pixels"} & set(arguments):
        (tmp_path / kind).symlink_to(tiny_models(kind))
    sb(*ASKED, *arguments).refused(code, *words)
    assert not (tmp_path / "out").exists()


def test_the_decoder_goes_on_learning_while_the_latents_stay(photos, tmp_path):
    vaes, fit = [], training.fit

    def look(network, loss, recipe, **how):
        weights = fit(network, loss, recipe, **how)
        vaes.append((recipe.phase, {name: value.clone() for name, value in weights.items()}))
        return weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "fit", look)
        learn(tmp_path / "out", photos)
    (first, vae), (second, decoder) = vaes[:2]
    assert (first, second) == ("vae", "decoder")
    stored = safetensors.torch.load_file(tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors")
    changed = {name for name in vae if not torch.equal(vae[name].half(), stored[name])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    assert torch.equal(stored["post_quant_conv.weight"], decoder["first.weight"].half())


@pytest.mark.slow
@pytest.mark.further
def test_the_decoder_learns_from_images_of_its_own(sb, photos, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    for path in photos.glob("*.png"):  # without captions
        (others / path.name).write_bytes(path.read_bytes())
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(others / "black.png")
    assert sb(*ASKED).code == 0
    assert sb(*ASKED[:-1], "other", "--decoder-data", "others").code == 0
    shown = safetensors.torch.load_file(tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors")
    found = safetensors.torch.load_file(tmp_path / "other" / "vae" / "diffusion_pytorch_model.safetensors")
    changed = {name for name in shown if not torch.equal(shown[name], found[name])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    about = json.loads((tmp_path / "other" / "training.json").read_text())
    assert (about["images"], about["decoder_images"]) == (IMAGES, IMAGES + 1)
    sb(*ASKED, "--decoder-data", "others").refused(2, "decoder_data", "another output")


def test_too_few_images_for_the_decoder_are_refused(sb, photos, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    (few / "0.png").write_bytes((photos / "0.png").read_bytes())
    sb(*ASKED, "--decoder-data", "few").refused(4, "1 images, 4 asked for")
    sb("train", *ASKED[2:], "--decoder-data", "few").refused(2, "decoder_data")
    assert not (tmp_path / "out").exists()


def test_lengths_keep_their_proportions():
    assert Settings(steps=6).lengths == {"vae": 4, "decoder": 1, "text": 4, "unet": 6}
    with pytest.raises(InputError, match="steps"):
        Settings(steps=0)
