"""Peer of bench/optimizer.ts: torch.optim.AdamW(fused=True) over f32 masters with f32 gradients, then the copy into bf16; and
the gradient norm by torch._foreach_norm, as clip_grad_norm_ takes it."""

import math

import torch
from weights import attempt, median_ms, show, spec

args = spec()
masters = [torch.nn.Parameter(torch.zeros(s, device="cuda")) for s in args["shapes"]]
for master in masters:
    master.grad = torch.full_like(master, 1e-3)
half = [master.detach().bfloat16() for master in masters]
count = sum(math.prod(s) for s in args["shapes"])
optimizer = torch.optim.AdamW(masters, lr=1e-6, fused=True)


def step():
    optimizer.step()
    torch._foreach_copy_(half, [master.detach() for master in masters])


def norm():
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm([master.grad for master in masters])))


def run():
    show("fused AdamW with masters", median_ms(step, args["repeats"]), bytes=30 * count)
    show("foreach gradient norm", median_ms(norm, args["repeats"]), bytes=4 * count)


attempt("optimizer", run)
