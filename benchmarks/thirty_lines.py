"""FID of two samplers on the embedded network, by the schedulers of diffusers: docs/thirty-lines.md."""

import numpy as np
import scipy.linalg
import torch
from diffusers import DDIMScheduler, DDPMScheduler

import samplerbench as sb

N = 512
model = sb.load_model("fashion-mnist")
network = model.network(torch.device("cpu"), torch.float32)
prompts = [model.prompts[i % len(model.prompts)] for i in range(N)]
conditions = model.encode(prompts)
extract, real = model.extractors["features"].extract, model.extractors["features"].reference()


@torch.no_grad()
def draw(scheduler, steps):
    """N images, uint8."""
    x = torch.randn(N, *model.shape, generator=torch.manual_seed(0))
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        batches = zip(x.split(64), conditions.split(64), strict=True)
        answer = torch.cat([network(rows, t.repeat(len(rows)), texts) for rows, texts in batches])
        x = scheduler.step(answer, t, x).prev_sample
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte()


def fid(a, b):
    """The Frechet distance of two sets of features."""
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    spread = np.trace(sum(covariances) - 2 * scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + spread


for name, scheduler in {"ddim": DDIMScheduler(), "ddpm": DDPMScheduler()}.items():
    for steps in (5, 10, 20):
        print(name, steps, f"{fid(extract(draw(scheduler, steps), prompts), real):.2f}", flush=True)
