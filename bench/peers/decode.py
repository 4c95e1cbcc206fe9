"""Peer of bench/decode.ts: the same decoding step in plain PyTorch on the same weights: a static KV cache, every step in a CUDA
graph, a token drawn from the top 0.9 of the probability with its log-probability, and fed back, so that the context grows
inside the replays. Eager with the cut by sorting and by bisection, and with {"compile": true} the latter under torch.compile.

Every variant is a process of its own and ends with {"limit"} seconds: a compiler that hangs cannot hold the others up.
Bytes counted: all weights, and the keys and values that are there, once a step."""

import json
import math
import os
import signal
import subprocess
import sys

import torch
import torch.nn.functional as F
from weights import attempt, median_ms, show, spec, tile, token_ids, weight_sequence

TOP_P = 0.9
PAGE = 64
ROUNDS = 5
BISECTIONS = 24

args = spec()
hidden, layers, vocabulary = args["hidden"], args["layers"], args["vocab"]
heads, kv_heads, head_dim = args["heads"], args["kvHeads"], args["headDim"]
context, steps = args["context"], args["steps"]
group = heads // kv_heads
places = math.ceil((context + 3 * steps) / PAGE) * PAGE
replays = max(1, steps // 4)


def run_variants():
    """Each in a process of its own, with the workers that torch.compile starts. Ends with 1 where one failed."""
    failed = False
    compiled = [["compiled", "bisection"]] if args["compile"] else []
    for mode, cut in [["eager", "sort"], ["eager", "bisection"], *compiled]:
        variant = json.dumps({**args, "variant": [mode, cut]})
        child = subprocess.Popen([sys.executable, __file__, variant], start_new_session=True)
        try:
            child.wait(timeout=args["limit"])
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            print(f"{mode}, {cut}: no end after {args['limit']} s", file=sys.stderr, flush=True)
        failed |= child.returncode != 0
    sys.exit(1 if failed else 0)


def make_weights():
    """The weights of bench/decode.ts: parameter number i of models/parameters.ts has the salt i * SALT."""
    sequence = weight_sequence()
    number = 0

    def matrix(*shape):
        nonlocal number
        made = torch.empty(shape, device="cuda", dtype=torch.bfloat16)
        tile(made, sequence, number * args["salt"])
        number += 1
        return made

    def constant(value, size):
        nonlocal number
        number += 1
        return torch.full((size,), value, device="cuda", dtype=torch.bfloat16)

    embedding = matrix(vocabulary, hidden)
    width = (heads + 2 * kv_heads) * head_dim
    blocks = [
        {
            "norm": constant(1.0, hidden),
            "qkv": matrix(width, hidden),
            "bias": constant(0.0, width),
            "o": matrix(hidden, heads * head_dim),
            "norm2": constant(1.0, hidden),
            "gate_up": matrix(2 * args["intermediate"], hidden),
            "down": matrix(hidden, args["intermediate"]),
        }
        for _ in range(layers)
    ]
    norm = constant(1.0, hidden)
    head = embedding if args["tied"] else matrix(vocabulary, hidden)
    return {"embedding": embedding, "blocks": blocks, "norm": norm, "head": head}


def count_bytes(weights):
    """Of all weights, a shared head once."""
    tensors = [weights["embedding"], weights["norm"], *(w for block in weights["blocks"] for w in block.values())]
    if not args["tied"]:
        tensors.append(weights["head"])
    return sum(w.numel() * w.element_size() for w in tensors)


def angles():
    """Cosines and sines [places, head_dim] of the rotation."""
    frequencies = 1e6 ** (-torch.arange(0, head_dim, 2, device="cuda", dtype=torch.float64) / head_dim)
    turned = torch.outer(torch.arange(places, device="cuda", dtype=torch.float64), frequencies)
    both = torch.cat([turned, turned], -1)
    return both.cos().to(torch.bfloat16), both.sin().to(torch.bfloat16)


def rotate(x, cos, sin):
    half = head_dim // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def gumbel_argmax(logprobs):
    return (logprobs - torch.empty_like(logprobs).exponential_().log()).argmax(-1, keepdim=True)


def draw_sorted(logprobs):
    ordered, ids = logprobs.sort(dim=-1, descending=True)
    probabilities = ordered.exp()
    before = probabilities.cumsum(-1) - probabilities
    return ids.gather(-1, gumbel_argmax(ordered.masked_fill(before >= TOP_P, -math.inf)))


def draw_bisected(logprobs):
    """The largest threshold with TOP_P of the probability at or above it, in fixed steps over [0, 1] in f32."""
    probabilities = logprobs.exp()
    low = torch.zeros_like(probabilities[:, :1])
    high = probabilities.amax(-1, keepdim=True)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = torch.where(probabilities >= middle, probabilities, 0).sum(-1, keepdim=True) >= TOP_P
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return gumbel_argmax(logprobs.masked_fill(probabilities < low, -math.inf))


def make_step(weights, draw):
    """A function that moves tokens [batch] and position [1] on in place and leaves the log-probs of what it drew."""
    cos, sin = angles()
    all_places = torch.arange(places, device="cuda")

    def step(tokens, position, drawn_logprobs, keys, values):
        batch = tokens.shape[0]
        x = F.embedding(tokens, weights["embedding"])
        c, s = cos[position], sin[position]
        mask = torch.zeros(places, device="cuda", dtype=torch.bfloat16)
        mask = mask.masked_fill(all_places > position, -math.inf).view(1, 1, 1, places)
        for i, w in enumerate(weights["blocks"]):
            h = F.rms_norm(x, (hidden,), w["norm"], 1e-6)
            qkv = F.linear(h, w["qkv"], w["bias"]).view(batch, heads + 2 * kv_heads, head_dim)
            q = rotate(qkv[:, :heads], c, s)
            k = rotate(qkv[:, heads : heads + kv_heads], c, s)
            keys[i].index_copy_(2, position, k.unsqueeze(2))
            values[i].index_copy_(2, position, qkv[:, heads + kv_heads :].unsqueeze(2))
            # The heads that share keys are the queries of one head: nothing is repeated.
            q = q.reshape(batch, kv_heads, group, head_dim)
            attended = F.scaled_dot_product_attention(q, keys[i], values[i], attn_mask=mask)
            x = x + F.linear(attended.reshape(batch, heads * head_dim), w["o"])
            gate, up = F.linear(F.rms_norm(x, (hidden,), w["norm2"], 1e-6), w["gate_up"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, w["down"])
        logits = F.linear(F.rms_norm(x, (hidden,), weights["norm"], 1e-6), weights["head"]).float()
        logprobs = logits.log_softmax(-1)
        ids = draw(logprobs)
        drawn_logprobs.copy_(logprobs.gather(-1, ids).squeeze(-1))
        tokens.copy_(ids.squeeze(-1))
        position.add_(1)

    return step


def time_batch(name, step, weight_bytes, batch):
    shape = (batch, kv_heads, places, head_dim)
    keys, values = ([torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(layers)] for _ in range(2))
    tokens = token_ids(batch, vocabulary, 999)
    position = torch.full((1,), context, device="cuda", dtype=torch.long)
    logprobs = torch.empty(batch, device="cuda")
    work = (tokens, position, logprobs, keys, values)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(*work)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(*work)
    position.fill_(context)

    def replay():
        for _ in range(replays):
            graph.replay()

    ms = median_ms(replay, ROUNDS, warm=1) / replays
    grown = position.item() - context
    if grown != (ROUNDS + 1) * replays or not torch.isfinite(logprobs).all():
        raise RuntimeError(f"{grown} steps were taken, log-probs {logprobs[:4].tolist()}")
    kv_bytes = batch * (context + steps) * layers * 4 * kv_heads * head_dim
    note = f"{1000 * batch / ms:,.0f} tok/s"
    show(f"{name}, batch {batch}, context {context}", ms, bytes=weight_bytes + kv_bytes, note=note)


@torch.no_grad()
def run(mode, cut):
    weights = make_weights()
    weight_bytes = count_bytes(weights)
    step = make_step(weights, {"sort": draw_sorted, "bisection": draw_bisected}[cut])
    for batch in args["batches"]:
        name = f"{mode}, top-p by {cut}"
        torch.compiler.reset()
        taken = torch.compile(step, dynamic=False) if mode == "compiled" else step
        attempt(f"{name}, batch {batch}", lambda: time_batch(name, taken, weight_bytes, batch))
        torch.cuda.empty_cache()


if "variant" in args:
    run(*args["variant"])
else:
    run_variants()
