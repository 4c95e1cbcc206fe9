"""Errors of PyTorch's own bf16 gradients, for test/models/qwen.test.ts.

    python3 test/tools/torchBf16Errors.py [--device cuda] > test/fixtures/bf16-errors.json

For each fixture under test/fixtures: the model in transformers, in bf16, with the loss of expected.safetensors,
-sum(logprobs * loss_weights) / sum(|loss_weights|) over the tokens inside `lengths`, log-softmax in f32. Prints JSON
{fixture: {parameter: ||gradient - exact|| / ||exact||}}, where exact are the gradients there, computed in f64. The same in
f64 comes first, which shows that it is the same loss: its errors must be below 1e-5. Needs torch, transformers, safetensors.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

FIXTURES = ("tiny-qwen2", "tiny-qwen3", "small-qwen2-hd128")


def gradients(folder, expected, dtype, device):
    """Loss and gradients by parameter name."""
    # Converted while loading, as users do: `.to(dtype)` would round the rotary frequencies too.
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    except TypeError:  # transformers before 4.56
        model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype, attn_implementation="sdpa")
    model.to(device).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    ids = expected["input_ids"].long().to(device)
    lengths = expected["lengths"].long().to(device)
    places = torch.arange(ids.shape[1], device=device)
    mask = (places[None] < lengths[:, None]).long()
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    logprobs = logits[:, :-1].to(wide).log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    weights = expected["loss_weights"].to(device=device, dtype=wide)
    weights = weights * (places[None, 1:] < lengths[:, None])
    loss = -(logprobs * weights).sum() / weights.abs().sum()
    loss.backward()
    return loss.item(), {name: p.grad.double().cpu() for name, p in model.named_parameters() if p.grad is not None}


def errors(found, expected):
    """Relative error of each gradient."""
    result = {}
    for name, gradient in found.items():
        exact = expected[f"grad.{name}"].double()
        result[name] = ((gradient - exact).norm() / exact.norm()).item()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--fixtures", default=str(Path(__file__).resolve().parent.parent / "fixtures"))
    args = parser.parse_args()
    report = {}
    for name in FIXTURES:
        folder = Path(args.fixtures) / name
        expected = load_file(str(folder / "expected.safetensors"))
        loss, found = gradients(folder, expected, torch.float64, args.device)
        exact = errors(found, expected)
        worst = max(exact.values())
        print(f"{name}: loss {loss:.7f} for {expected['loss'].item():.7f}, f64 error at most {worst:.1e}", file=sys.stderr)
        missing = sorted({key[5:] for key in expected if key.startswith("grad.")} - found.keys())
        if worst > 1e-5 or missing:
            sys.exit(f"{name}: this is not the loss of expected.safetensors (missing: {missing})")
        loss, found = gradients(folder, expected, torch.bfloat16, args.device)
        report[name] = errors(found, expected)
        print(f"{name}: bf16 loss {loss:.7f}, error at most {max(report[name].values()):.2e}", file=sys.stderr)
    json.dump(report, sys.stdout, indent=1, sort_keys=True)
    print()


main()
