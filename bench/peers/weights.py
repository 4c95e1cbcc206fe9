"""What the peers share: the weights and token ids of bench/gpu.ts, times by CUDA events, and how rows are printed."""

import json
import math
import sys

import torch

TILE = 1_048_573
MASK = 0xFFFFFFFF


def spec():
    """The JSON argument that bench/gpu.ts gives."""
    return json.loads(sys.argv[1])


def hash32(i):
    """`hash` of bench/gpu.ts for an int64 tensor; products wrap, their low 32 bits are those of Math.imul."""
    h = (i + 0x9E3779B9) & MASK
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & MASK
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & MASK
    return h ^ (h >> 16)


def weight_sequence(std=0.02, device="cuda"):
    """The sequence that matrices are made of, in bf16."""
    u = hash32(torch.arange(TILE, dtype=torch.int64)).double() / 2**32
    return (std * math.sqrt(3) * (2 * u - 1)).float().bfloat16().to(device)


@torch.no_grad()
def tile(target, sequence, salt=0, offset=0):
    """Element i becomes number (offset + i + salt) mod TILE. `offset` is the place in a fused parameter."""
    flat = target.data.view(-1)
    for start in range(0, flat.numel(), 1 << 26):
        stop = min(flat.numel(), start + (1 << 26))
        index = (torch.arange(start, stop, device=flat.device) + (offset + salt)) % TILE
        flat[start:stop] = sequence[index]


def token_ids(count, vocabulary, seed, device="cuda"):
    return (hash32(torch.arange(count, dtype=torch.int64) + 7_000_003 * (seed + 1)) % vocabulary).to(device)


def median_ms(work, repeats, warm=3):
    """Median time by CUDA events."""
    for _ in range(warm):
        work()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def show(label, ms, **more):
    """One row of bench/gpu.ts' tables: label, ms, flops or bytes, note."""
    print(json.dumps([{"label": f"peer: {label}", "ms": ms, **more}]), flush=True)


def attempt(label, work):
    """Runs `work`; what fails is said on stderr and left out."""
    try:
        work()
    except Exception as error:  # noqa: BLE001
        print(f"{label}: {str(error)[:300]}", file=sys.stderr, flush=True)
        torch.cuda.empty_cache()
