"""Peer of bench/logprob.ts: the head, log-probabilities and entropy in PyTorch, in chunks of tokens that are computed again
in backward (as verl and others do), eager and compiled. Logits are bf16, then f32."""

import torch
from torch.utils.checkpoint import checkpoint
from weights import attempt, median_ms, show, spec, tile, token_ids, weight_sequence

args = spec()
tokens, width, vocabulary = args["tokens"], args["d"], args["vocabulary"]
CHUNK = 2048
hidden = torch.empty(tokens, width, device="cuda", dtype=torch.bfloat16)
weight = torch.empty(vocabulary, width, device="cuda", dtype=torch.bfloat16)
tile(hidden, weight_sequence(1.0), 5)
tile(weight, weight_sequence())
hidden.requires_grad_(), weight.requires_grad_()
targets = token_ids(tokens, vocabulary, 0)
flops = 2 * tokens * width * vocabulary


def chunk(h, w, t):
    logp = (h @ w.T).float().log_softmax(-1)
    return logp.gather(-1, t[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def run(name, fn):
    def forward():
        return [fn(h, weight, t) for h, t in zip(hidden.split(CHUNK), targets.split(CHUNK))]

    def both():
        hidden.grad = weight.grad = None
        for h, t in zip(hidden.split(CHUNK), targets.split(CHUNK)):
            logprobs, entropy = checkpoint(fn, h, weight, t, use_reentrant=False)
            (logprobs.sum() + entropy.sum()).backward()

    with torch.no_grad():
        show(f"{name}, head forward", median_ms(forward, args["repeats"]), flops=flops)
    torch.cuda.reset_peak_memory_stats()
    ms = median_ms(both, args["repeats"])
    note = f"peak {torch.cuda.max_memory_allocated() / 1e9:.2f} GB"
    show(f"{name}, head forward and backward", ms, flops=3 * flops, note=note)


attempt("eager", lambda: run("eager", chunk))
attempt("compiled", lambda: run("compiled", torch.compile(chunk)))
