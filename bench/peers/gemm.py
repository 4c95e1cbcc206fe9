"""Peer of bench/gemm.ts: the same products by torch.matmul in bf16; weight gradients are rounded to bf16."""

import torch
from weights import median_ms, show, spec

args = spec()
torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
whole, work = 0.0, 0.0
for name, n, k, times in args["shapes"]:
    m = min(args["tokens"], 4096) if name == "head" else args["tokens"]
    x, w, dy = (torch.randn(*s, device="cuda", dtype=torch.bfloat16) for s in ((m, k), (n, k), (m, n)))
    kinds = {"forward": lambda: x @ w.T, "input gradient": lambda: dy @ w, "weight gradient": lambda: dy.T @ x}
    for kind, fn in kinds.items():
        ms = median_ms(fn, args["repeats"])
        flops = 2 * m * n * k
        show(f"{name} {m}×{n}×{k}, {kind}", ms, flops=flops)
        share = args["tokens"] / m if name == "head" else times
        whole, work = whole + ms * share, work + flops * share
    del x, w, dy
show(f"torch.matmul, all of a step, {args['tokens']} tokens", whole, flops=work)
