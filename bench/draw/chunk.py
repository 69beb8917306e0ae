"""A block of a cell's samples -> a chunk: drawn under the clock, seen by the extractors, hashed; and short trials."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...samplers.acceleration import Accelerated, turns_switches, untold_seconds
from ...samplers.devices import is_accelerator
from ...samplers.errors import (
    ModelError,
    PluginError,
    SamplerbenchError,
    describe_error,
    ignore_errors,
    pass_on,
    text_of,
)
from ...samplers.extractor import HasExtractors, OnDevice
from ...samplers.files.tiles import as_shown
from ...samplers.metric import Rows
from ...samplers.model import EncodesAnywhere, encode_on
from ...samplers.options import at_fault
from ...samplers.predictor import NetworkFault, clock, is_out_of_memory, memory_asked
from ...samplers.process import changes_told, state_kept, switches_kept
from ...samplers.sample import Request, Samples, draw, no_images
from ...samplers.sampler import SamplerFault
from ..plan.identity import is_seen
from ..plan.plan import KEPT_IMAGES, Block, Cell, Plan
from ..plan.sources import came_with_samplerbench
from .chunk_file import Chunk
from .clock import Timing, clock_draw

TRIAL_STEPS = 4
LONGEST_REASON = 300
"""Characters of the reason that a table gives for a failed cell."""


@dataclasses.dataclass(frozen=True)
class RawChunk:
    """A block that was drawn. What is left to do needs no network, and a device only where extractors are left."""

    first: int
    n: int
    timing: Timing
    rows: dict[str, Rows]
    ode_distance: npt.NDArray[np.float64] | None
    shown: Tensor
    """The images, or the states where the model makes none; on the CPU."""
    kept: int
    """How many of the images are stored."""
    cell: str = ""
    """The key of its cell, while an engine hands it over."""
    read: Callable[[], dict[str, Rows]] | None = None
    """Makes the rows, where that was left for later."""

    def finish(self) -> Chunk:
        """Make the rows that are missing, hash the images and pick those to keep; any thread may do this."""
        if self.read:
            started = time.perf_counter()
            rows = self.read()
            timing = dataclasses.replace(self.timing, extract_seconds=time.perf_counter() - started)
            return dataclasses.replace(self, rows=rows, timing=timing, read=None).finish()
        started = time.perf_counter()
        hashes = sample_hashes(self.shown)
        return Chunk(
            first=self.first,
            n=self.n,
            timing=dataclasses.replace(self.timing, hash_seconds=time.perf_counter() - started),
            rows=self.rows,
            hashes=hashes,
            images=as_shown(self.shown[: self.kept].numpy()) if self.kept else None,
            ode_distance=self.ode_distance,
            cell=self.cell,
        )


def encode_ahead(plan: Plan) -> None:
    """Encode the prompts of a run before its network is loaded, for a model that can let go of its encoders then.

    What fails here fails again as a chunk of a cell, and is reported there.
    """
    request = plan.trial
    encode = plan.model.encode and encode_on(plan.model.encode, request.device, request.dtype)
    if isinstance(encode, EncodesAnywhere):
        # Of each prompt one: sample i has prompt i mod their number.
        texts = request.prompts_of(0, min(plan.config.samples, max(len(request.prompts), 1)))
        with ignore_errors():
            encode.ready([*texts, request.negative or ""])


def warm_up(plan: Plan) -> None:
    """A trial outside the clock: the first calls of a process are slower than all others.

    Raises ModelError for a model whose files prove invalid on their first use.
    """
    encode_ahead(plan)
    try:
        for request in kinds_of_trial(plan):
            trial(request)
    except ModelError:
        raise
    except BaseException as error:  # it will fail again, as a chunk of a cell, and be reported there
        pass_on(error)
        return


def kinds_of_trial(plan: Plan) -> list[Request]:
    """The requests of a warm-up. One is enough, but a compiled network has a program for each number of rows."""
    if not isinstance(plan.model.network, Accelerated):
        return [plan.trial]
    # With guidance a call holds twice the rows, or the rows of both in turn.
    of_kind = {(cell.request.passes, cell.request.guidance_calls): cell.request for cell in plan.cells}
    return [dataclasses.replace(plan.trial, guidance=r.guidance, guidance_calls=r.guidance_calls)
            for r in of_kind.values()]  # fmt: skip


def answer_of(plan: Plan) -> str | None:
    """Hash of one sample: another process recognises by it a model that has no fingerprint."""
    if is_seen(plan.model.fingerprint):
        return plan.model.fingerprint
    if not plan.model.fingerprint:
        with ignore_errors():
            return sample_hashes(trial(plan.trial).x.cpu()).tobytes().hex()
    return None


def trial(request: Request) -> Samples:
    """One batch, in which one sample counts, over the first levels of a request and from there to the clean end."""
    # The batch is padded to its full size, so one sample costs what a batch of the run costs.
    short = dataclasses.replace(request, levels=(*request.levels[:-1][:TRIAL_STEPS], request.levels[-1]))
    return draw_apart(short, 0, 1)


def draw_apart(request: Request, first: int, n: int, *, trajectory: bool = False) -> Samples:
    """Draw as `draw` does, then restore the state of the process; a sampler that changed it is at fault.

    Samples that used a global random stream depend on what ran before, and change what runs next. Samples drawn with
    another number of threads are not timed as the others are.
    """
    # Put back first, then complained of: the next sampler must find the process as this one did.
    with state_kept() as changed:
        samples = draw(request, first, n, trajectory=trajectory)
    if changed:
        raise SamplerFault(
            f"sampler {type(request.sampler).__name__} or the network {changes_told(changed)}; "
            "take noise from run.noise, and leave the process as it is"
        )
    return samples


def draw_clocked(cell: Cell, block: Block) -> tuple[Samples, Timing]:
    """Draw a block of a cell's samples; a sampler that makes other calls than it declared is at fault.

    InputError if a file that the sampler reads has changed since the cell's key was made.
    """
    request = of_size(cell.request, block)
    samples, timing = clock_draw(lambda: draw_apart(request, block.first, block.n), request.device)
    # After the draw: a file that was exchanged meanwhile is noticed too.
    for file in cell.files:
        file.check()
    if cell.nfe is not None and samples.nfe != cell.nfe:
        raise SamplerbenchError(f"made {samples.nfe:g} model calls; nfe({cell.steps}) declares {cell.nfe}")
    return samples, timing


def make_chunk(plan: Plan, cell: Cell, block: Block, extractors: Collection[str], reference: Tensor | None) -> Chunk:
    """Draw a block of a cell's samples and have these extractors read them; none reads what is only for the clock."""
    return make_raw_chunk(plan, cell, block, extractors, reference).finish()


def make_raw_chunk(  # noqa: PLR0913  (a chunk, and when its images are read)
    plan: Plan, cell: Cell, block: Block, extractors: Collection[str], reference: Tensor | None, *, later: bool = False
) -> RawChunk:
    """Do all of `make_chunk` that needs the network, the device, or the state of the process to itself; with `later`
    the extractors need none of that, and are left out."""
    if block.is_at_once:
        # The first calls of another size are slower than all others.
        trial(of_size(plan.trial, block))
        extractors, reference = (), None
    samples, timing = draw_clocked(cell, block)
    # The stages after drawing, each clocked by itself: to the CPU, through the extractors, hashed.
    started = time.perf_counter()
    images = samples.images.cpu() if samples.images is not None else None
    shown = samples.x.cpu() if images is None else images
    on_cpu = time.perf_counter()
    seen = Seen(shown, samples.images, samples.prompts, block.first)
    rows = {} if later else read_by(plan.model, extractors, seen)
    timing = dataclasses.replace(
        timing,
        decode_seconds=samples.decode_seconds + on_cpu - started,
        extract_seconds=time.perf_counter() - on_cpu,
        compile_seconds=untold_seconds(plan.model),
    )
    # Images are kept by sample index, not by block, so that the size of blocks does not show.
    kept = block.n if plan.keep_images else max(0, min(block.n, KEPT_IMAGES - block.first))
    return RawChunk(
        first=block.first,
        n=block.n,
        timing=timing,
        rows=rows,
        ode_distance=ode_distances(cell, block, samples.x, solution_for(plan, cell, reference)),
        shown=shown,
        kept=kept if images is not None else 0,
        read=partial(read_beside, plan, extractors, seen) if later else None,
    )


def of_size(request: Request, block: Block) -> Request:
    """The request in batches of the run's size, or of the block's own size where that is drawn at once."""
    return dataclasses.replace(request, batch_size=block.n) if block.is_at_once else request


class Seen(NamedTuple):
    """What extractors see of a block."""

    shown: Tensor
    """The images, or the states where the model makes none; on the CPU."""
    there: Tensor | None
    """The images where they were made."""
    prompts: Sequence[str]
    first: int


def read_by(model: HasExtractors, extractors: Collection[str], seen: Seen) -> dict[str, Rows]:
    """The rows of each of these extractors."""
    # Sorted, because the order of a set differs from process to process.
    return {
        name: extract_rows(model, name, seen.shown, seen.prompts, seen.first, seen.there) for name in sorted(extractors)
    }


def read_beside(plan: Plan, extractors: Collection[str], seen: Seen) -> dict[str, Rows]:
    """`read_by` in a thread beside the one that draws: in a stream of its own, and with no eye on the state of the
    process, which the other thread may change."""
    with beside(plan.trial.device):
        return {name: rows_in(plan.model, name, seen) for name in sorted(extractors)}


@lru_cache(maxsize=16)
def _stream(device: torch.device) -> object:
    """A stream of the device beside that which draws; None where it has none."""
    streams = getattr(torch.get_device_module(device), "Stream", None) if is_accelerator(device) else None
    return streams(device) if streams else None


def beside(device: torch.device) -> AbstractContextManager[object]:
    """Have what is computed inside the block wait for nothing that is being drawn."""
    stream = _stream(device)
    return nullcontext() if stream is None else torch.get_device_module(device).stream(stream)


def may_read_beside(plan: Plan, extractors: Collection[str]) -> bool:
    """Whether these extractors may read images while others are drawn: those that came with samplerbench set no switch
    of the process, not even for the length of a call. Of others nobody knows. A network that turns switches for the
    length of a call would change what an extractor computes meanwhile."""
    if turns_switches(plan.model):
        return False
    functions = [plan.model.extractors[name].extract for name in extractors]
    return all(came_with_samplerbench(f.extract if isinstance(f, OnDevice) else f) for f in functions)


def extract_rows(  # noqa: PLR0913  (an extractor, and all that it may see)
    model: HasExtractors, name: str, shown: Tensor, prompts: Sequence[str], first: int, there: Tensor | None = None
) -> Rows:
    """The rows of an extractor for images, or for states where the model makes no images, (n, d), all finite.

    A PluginError names an extractor that returns anything else, raises, or changes the state of the process, such as a
    switch of torch, which would change the samplers' results too. `there` are the images where they were made.
    """
    with switches_kept(f"extractor {name!r}"):
        return rows_in(model, name, Seen(shown, there, prompts, first))


def rows_in(model: HasExtractors, name: str, seen: Seen) -> Rows:
    """`extract_rows`, without an eye on the state of the process."""
    # A stranger's extractor is held to its contract here, where the sample can still be named.
    extractor, (shown, there, prompts, first) = model.extractors[name], seen
    what = f"extractor {name!r} ({extractor.label})"
    # What computes on the device takes the images from there: they leave it once, for the disk.
    images = there if there is not None and isinstance(extractor.extract, OnDevice) else shown
    with at_fault(what):
        try:
            rows = np.asarray(extractor.extract(images, prompts))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise PluginError(
                f"{what}: no memory for {len(shown)} images of {tuple(shown.shape[1:])}{memory_asked(error)}; draw "
                "without its metrics (--metric none), and score the images later, or give a smaller --size"
            ) from error
    if rows.ndim != 2 or len(rows) != len(shown):  # noqa: PLR2004  (rows and columns)
        raise PluginError(f"{what}: returned shape {rows.shape}; expected ({len(shown)}, d)")
    if rows.dtype.kind not in "fiub":
        raise PluginError(f"{what}: returned {rows.dtype}; expected numbers")
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        raise PluginError(f"{what}: returned NaN or infinity for sample {first + int(finite.argmin())}")
    return rows


def telling(advanced: Callable[[int], object], evaluations: int) -> Callable[[Tensor], None]:
    """A function to call with the state after each step; it passes on how many evaluations the step took."""

    def step(_: Tensor) -> None:
        advanced(evaluations)

    return step


def ode_solution(
    references: Sequence[Request], n: int, first: int = 0, advanced: Callable[[int], object] = lambda _: None
) -> Tensor | None:
    """The converged solution of samples first ... first + n - 1, (n, *shape); None where network or sampler fails.

    Of several references, one for each guidance, (n, references, *shape). A model that fails has no solution to be far
    from; its cells say so themselves. `advanced` is told after each step how many evaluations it took.
    """
    try:
        with state_kept():
            solutions = [
                draw(one, first, n, images=no_images, watch=telling(advanced, n * one.passes)).x for one in references
            ]
    except (SamplerFault, NetworkFault):
        return None
    return solutions[0] if len(solutions) == 1 else torch.stack(solutions, 1)


def solution_for(plan: Plan, cell: Cell, solution: Tensor | None) -> Tensor | None:
    """The part of the run's ODE solution that is of a cell's guidance, (k, *shape)."""
    guidances = plan.config.guidances
    if solution is None or len(guidances) == 1:
        return solution
    return solution[:, guidances.index(cell.request.guidance)]


def ode_distances(cell: Cell, block: Block, x: Tensor, reference: Tensor | None) -> npt.NDArray[np.float64] | None:
    """Mean squared distance of each of the first samples to its converged solution, (k,)."""
    if reference is None or not cell.is_deterministic or block.first >= len(reference):
        return None
    there = reference[block.first : block.first + block.n].double()
    # In float64: near convergence the distances are of the size of float32's roundings.
    squares: npt.NDArray[np.float64] = (x[: len(there)].cpu().double() - there).square().flatten(1).mean(1).numpy()
    return squares


def sample_hashes(samples: Tensor) -> npt.NDArray[np.uint8]:
    """16 bytes of SHA-256 of each sample, (n, 16)."""
    digests = [hashlib.sha256(row.tobytes()).digest()[:16] for row in samples.contiguous().numpy()]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(digests), 16).copy()


def seconds_per_evaluation(plan: Plan) -> float | None:
    """Time of one sample evaluation of the network, only for estimates; None if the model fails in a trial."""
    with ignore_errors():
        trial(plan.trial)
        # The second of two, since the first call of a process is slower than all others.
        second = trial(plan.trial)
        return second.seconds / (second.network_evaluations * plan.trial.batch_size)
    return None


def seconds_after_drawing(plan: Plan, extractors: Collection[str]) -> float | None:
    """Time to decode one sample and to have these extractors read it, only for estimates; None if that fails."""
    model, device = plan.model, plan.trial.device
    with ignore_errors(), torch.no_grad():
        samples = trial(plan.trial)
        for _ in range(2):  # the first time an extractor may load its weights
            started = clock(device)
            images = model.images(samples.x)
            shown = samples.x.cpu() if images is None else images.cpu()
            for name in sorted(extractors):
                extract_rows(model, name, shown, samples.prompts, 0)
            seconds = clock(device) - started
        return seconds
    return None


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    return one_line(text_of(error) if isinstance(error, SamplerbenchError) else describe_error(error))


def one_line(text: str) -> str:
    """A reason of any length and content as one printable line that a table can hold."""
    # Cut before it is searched: an exception may carry megabytes.
    start = text[: 10 * LONGEST_REASON]
    return " ".join("".join(c if c.isprintable() else " " for c in start).split())[:LONGEST_REASON]
