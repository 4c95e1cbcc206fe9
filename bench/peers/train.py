"""Peer of bench/train.ts: the same training step in PyTorch + transformers on the same weights and ids; eager (attention by
PyTorch's choice, then cuDNN), and with {"compile": true} under torch.compile. Gradients are bf16.

FLOPs counted: 6 * parameters * tokens + 6 * layers * heads * head_dim * length * tokens (causal attention)."""

import contextlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, Qwen2Config
from weights import attempt, median_ms, show, spec, tile, token_ids, weight_sequence

args = spec()
sequences, length, vocabulary = args["sequences"], args["length"], args["vocab"]
tokens = sequences * length
torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False

config = Qwen2Config(
    vocab_size=vocabulary,
    hidden_size=args["hidden"],
    intermediate_size=args["intermediate"],
    num_hidden_layers=args["layers"],
    num_attention_heads=args["heads"],
    num_key_value_heads=args["kvHeads"],
    max_position_embeddings=32768,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    tie_word_embeddings=args["tied"],
)
with torch.device("cuda"):
    torch.set_default_dtype(torch.bfloat16)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    torch.set_default_dtype(torch.float32)


def fill():
    """The weights of bench/train.ts: parameter number i of models/parameters.ts has the salt i * SALT."""
    sequence = weight_sequence()
    number = 0

    def fused(*parts):
        nonlocal number
        offset = 0
        for part in parts:
            tile(part, sequence, number * args["salt"], offset)
            offset += part.numel()
        number += 1

    def constant(value, *parts):
        nonlocal number
        for part in parts:
            part.data.fill_(value)
        number += 1

    fused(model.model.embed_tokens.weight)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
        constant(1, layer.input_layernorm.weight)
        fused(*(part.weight for part in qkv))
        constant(0, *(part.bias for part in qkv))
        fused(attention.o_proj.weight)
        constant(1, layer.post_attention_layernorm.weight)
        fused(mlp.gate_proj.weight, mlp.up_proj.weight)
        fused(mlp.down_proj.weight)
    constant(1, model.model.norm.weight)
    if not args["tied"]:
        fused(model.lm_head.weight)


fill()
model.train()
if args["recompute"]:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
parameters = sum(p.numel() for p in model.parameters())
flops = (6 * parameters + 6 * args["layers"] * args["heads"] * args["headDim"] * length) * tokens
step = 0


def ids():
    global step
    step += 1
    return token_ids(tokens, vocabulary, step).view(sequences, length)


def gradient_norm():
    grads = [p.grad for p in model.parameters()]
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g, dtype=torch.float32) for g in grads]))


def run(name, forward, attention=None):
    """Times steps; the first is on the ids of step 0, whose loss and gradient norm are compared."""
    with sdpa_kernel(attention) if attention else contextlib.nullcontext():
        first = token_ids(tokens, vocabulary, 0).view(sequences, length)
        loss = forward(input_ids=first, labels=first, use_cache=False).loss
        loss.backward()
        norm = gradient_norm().item()
        model.zero_grad(set_to_none=True)

        def train():
            batch = ids()
            forward(input_ids=batch, labels=batch, use_cache=False).loss.backward()
            model.zero_grad(set_to_none=True)

        torch.cuda.reset_peak_memory_stats()
        ms = median_ms(train, args["repeats"])
        note = f"{tokens / ms * 1e3:,.0f} tok/s; peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
        show(f"{name}, forward, loss, backward", ms, flops=flops, note=note, loss=loss.item(), norm=norm)

        def score():
            batch = ids()
            with torch.no_grad():
                forward(input_ids=batch, labels=batch, use_cache=False)

        show(f"{name}, forward only", median_ms(score, args["repeats"]), flops=flops / 3)


def run_with_optimizer():
    """bf16 moments and no masters: less work than ours."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def train():
        batch = ids()
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad(set_to_none=True)

    note = "bf16 moments, no masters"
    show("eager, with gradient norm and fused AdamW", median_ms(train, args["repeats"]), flops=flops, note=note)


attempt("eager", lambda: run("eager", model))
attempt("cuDNN attention", lambda: run("eager, cuDNN attention", model, SDPBackend.CUDNN_ATTENTION))
attempt("optimizer", run_with_optimizer)
if args["compile"]:  # last: it may take longer than there is time
    attempt("compiled", lambda: run("compiled", torch.compile(model)))
