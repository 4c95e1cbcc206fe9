"""Peer of bench/attention.ts: scaled_dot_product_attention, causal, by FlashAttention and by cuDNN; keys and values shared by
`enable_gqa` where the kernel takes it. Neither backward is deterministic."""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from weights import attempt, median_ms, show, spec

args = spec()
heads, kv_heads, head_dim = args["heads"], args["kvHeads"], args["headDim"]


def run(name, backend, length):
    batch = args["tokens"] // length

    def make(count):
        return torch.randn(batch, count, length, head_dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)

    q, k, v = make(heads), make(kv_heads), make(kv_heads)
    products = batch * 2 * heads * head_dim * length * (length + 1) / 2
    label = f"{name}, {batch} × {length}, {heads}:{kv_heads} heads of {head_dim}"
    with sdpa_kernel(backend):
        def forward():
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        y = forward()
        dy = torch.randn_like(y)
        with torch.no_grad():
            show(f"{label}, forward", median_ms(forward, args["repeats"]), flops=2 * products)

        def backward():
            torch.autograd.grad(y, (q, k, v), dy, retain_graph=True)

        show(f"{label}, backward", median_ms(backward, args["repeats"]), flops=5 * products)


for length in args["lengths"]:
    for name, backend in (("FlashAttention", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)):
        attempt(f"{name} {length}", lambda: run(name, backend, length))
