"""`python -m tpu generate`."""

import argparse
import json
from typing import Any

import numpy as np

from tpu.arguments import OK, Failed, UsageError, not_negative, number, whole

SAYS = "sample responses of a model to prompts"
EPILOG = """Exit status: 0 done, 1 it failed on the way, 2 it could not start.
A response depends on its prompt, its place among the prompts and --seed, not on --batch or --num-samples."""


def add_sampling(parser: argparse.ArgumentParser, num_samples: int) -> None:
    """The flags of the law responses are drawn from."""
    add = parser.add_argument_group("sampling").add_argument
    add("--max-new-tokens", type=whole(1), default=64, metavar="N", help="of a response (default: 64)")
    add("--temperature", type=not_negative, default=1.0, metavar="X", help="0 is greedy (default: 1)")
    add("--top-k", type=whole(1), metavar="K", help="only the K likeliest tokens")
    add("--top-p", type=number, metavar="P", help="only the likeliest tokens that have mass P together")
    add("--num-samples", type=whole(1), default=num_samples, metavar="K",
        help=f"responses to a prompt (default: {num_samples})")  # fmt: skip
    add("--seed", type=whole(0), default=0, help="of the samples, and of a preset's parameters (default: 0)")
    add("--batch", type=whole(1), default=8, metavar="B", help="prompts at a time (default: 8)")


def sampling_of(options: argparse.Namespace) -> Any:
    """`Sampling`. Raises: ValueError that names the flag."""
    from alignjax.lm.sampling_laws import check_settings
    from tpu.rollout import Sampling

    try:
        check_settings(options.temperature, options.top_k, options.top_p)
    except ValueError as error:
        raise UsageError(f"--{str(error).replace('_', '-', 1)}") from None
    return Sampling(
        max_new_tokens=options.max_new_tokens, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `generate`."""
    parser.add_argument(
        "--model", default="tiny", metavar="DIR", help="a run, a folder of weights, or a preset (default: tiny)"
    )
    parser.add_argument("--prompt", nargs="+", metavar="TEXT", help="prompts as they are")
    parser.add_argument("--data", nargs="+", metavar="FILE", help="JSONL or Parquet with prompts")
    parser.add_argument("--chat", action="store_true", help="each --prompt is a user's message: use the chat template")
    add_sampling(parser, num_samples=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")


def _prompts(options: argparse.Namespace, config: Any, tokenizer: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """`prompts` and `prompt_mask` `[N, P]`, and what they say."""
    from alignjax import lm
    from alignjax.lm.tokenizer import begin

    if (options.prompt is None) == (options.data is None):
        raise UsageError("give --prompt TEXT ... or --data FILE ...")
    room = config.max_length - options.max_new_tokens
    if room < 1:
        raise UsageError(
            f"--max-new-tokens {options.max_new_tokens} leaves no room for a prompt in the {config.max_length} tokens "
            f"that {options.model} takes"
        )
    if options.data is not None:
        if options.chat:
            raise UsageError("--chat is for --prompt; conversations in --data use the template anyway")
        data = lm.read_prompts(options.data, max_prompt_length=room, tokenizer=tokenizer)
        return {"prompts": data.prompts, "prompt_mask": data.prompt_mask}, list(data.prompt_texts)
    chat = lambda text: tokenizer.chat([{"role": "user", "content": text}], add_generation_prompt=True)
    rows = [chat(text) if options.chat else begin(tokenizer, tokenizer.encode(text)) for text in options.prompt]
    for text, row in zip(options.prompt, rows, strict=True):
        if not 1 <= len(row) <= room:
            raise UsageError(f"--prompt {text[:40]!r} is {len(row)} tokens; 1 to {room} leave room for the response")
    width = max(map(len, rows))
    mask = np.arange(width) >= width - np.array([[len(row)] for row in rows])
    tokens = np.full(mask.shape, tokenizer.pad, np.int32)
    tokens[mask] = np.concatenate(rows)
    return {"prompts": tokens, "prompt_mask": mask}, list(options.prompt)


def run(options: argparse.Namespace) -> int:
    """Sample responses of a model to prompts, given on the command line or in a file.

    Each response bears two log-probs: `logp`, the policy's own, and `law_logp`, that of the law it was drawn from. With
    --temperature, --top-k or --top-p they differ.
    """
    import jax

    from tpu.evaluation import respond
    from tpu.models import load_model
    from tpu.reading import reading

    sampling = sampling_of(options)
    with reading("--model"):
        config, params, tokenizer = load_model(options.model, seed=options.seed)
    with reading("--prompt" if options.data is None else "--data"):
        prompts, said = _prompts(options, config, tokenizer)
    try:
        responses = respond(
            (config, params), tokenizer, prompts, jax.random.key(options.seed), num_samples=options.num_samples,
            sampling=sampling, batch=options.batch,
        )  # fmt: skip
    except jax.errors.JaxRuntimeError as error:
        raise Failed(str(error)) from None
    made = responses.made
    rows: list[dict[str, Any]] = [
        {
            "prompt": prompt,
            "completions": [
                {
                    "text": text,
                    "tokens": made.tokens[n, k][made.mask[n, k]].tolist(),
                    "logp": float(made.logp[n, k].sum()),
                    "law_logp": float(made.law_logp[n, k].sum()),
                    "ended": bool(responses.ended[n, k]),
                }
                for k, text in enumerate(responses.texts[n])
            ],
        }
        for n, prompt in enumerate(said)
    ]
    if options.json:
        print(json.dumps({"model": options.model, "sampling": vars(sampling), "seed": options.seed, "responses": rows}))
        return OK
    for row in rows:
        print(f"prompt: {row['prompt']}")
        for one in row["completions"]:
            cut = "" if one["ended"] else " (cut)"
            print(f"  {len(one['tokens'])} tokens{cut}, logp {one['logp']:.2f}: {one['text']!r}")
    return OK
