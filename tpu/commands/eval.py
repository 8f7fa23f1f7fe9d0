"""`python -m tpu eval`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tpu.arguments import OK, Failed, UsageError, positive, whole
from tpu.commands.generate import add_sampling, sampling_of

SAYS = "measure checkpoints: reward, KL to the reference, win-rate, length, entropy, best-of-n"
EPILOG = """Exit status: 0 done, 1 it failed on the way, 2 it could not start.

  reward     of one response (--reward); with several samples also the best of n of them
  kl         E[log law - log reference] of whole responses, nats (--reference)
  win_rate   chance to beat a response of the reference, or of the data (--judge, --against); both orders averaged
  length     tokens, the end of sequence included; `ended`: the share that ended before --max-new-tokens
  entropy    of the policy's law of a token, nats; `branching` is exp(entropy)
Of data that are pairs also what trainers plot: rewards/accuracies, rewards/margins, logps/chosen, ...
Every number has its standard error over prompts. Several models are sampled with the same keys."""
COLUMNS = ("reward", "win_rate", "kl", "length", "ended", "entropy", "branching", "rewards/accuracies")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `eval`."""
    add = parser.add_argument
    add("--model", required=True, nargs="+", metavar="DIR", help="runs, folders of weights, or a preset: one row each")
    add("--data", required=True, nargs="+", metavar="FILE", help="JSONL or Parquet with prompts, or with responses too")
    add("--reference", metavar="DIR", help="a model, for kl, win-rates and the implicit rewards of pairs")
    add("--reward", action="append", default=[], metavar="NAME",
        help="length, vader, ...; module:function; a reward model's folder; several are a vector")  # fmt: skip
    add("--judge", metavar="NAME", help="longer, cyclic, module:function, or bt:REWARD")
    add("--against", choices=("reference", "data"),
        help="whose responses are the rivals (default: the reference's, without one the data's)")  # fmt: skip
    add("--beta", type=positive, default=0.1, help="of the implicit rewards of pairs (default: 0.1)")
    add("--num-prompts", type=whole(1), metavar="N", help="only the first N rows")
    add_sampling(parser, num_samples=4)
    add("--out", metavar="DIR", help="write eval.json and responses.jsonl there")
    add("--json", action="store_true", help="print one JSON object, and nothing else")


def _read(options: argparse.Namespace, config: Any, tokenizer: Any) -> dict[str, Any]:
    """`prompts` and `prompt_mask`, their `texts` and `columns`, the `rivals` (of the data, or None) and the `pairs` (or
    None).
    """
    from alignjax import lm
    from tpu.rewards import Written
    from tpu.rollout import ids_of, prompts_of

    room = config.max_length - options.max_new_tokens
    if room < 1:
        raise UsageError(
            f"--max-new-tokens {options.max_new_tokens} leaves no room for a prompt in the {config.max_length} tokens "
            "that the model takes"
        )
    kind = lm.data_kind(options.data)
    only = slice(options.num_prompts)
    if kind == "prompts":
        if options.against == "data":
            raise UsageError("--against data: the data hold no responses")
        asked = lm.read_prompts(options.data, max_prompt_length=room, tokenizer=tokenizer)
        first = np.arange(len(asked))[only]
        return {
            "prompts": asked.rows(first), "texts": [asked.prompt_texts[i] for i in first], "rivals": None,
            "pairs": None, "columns": {name: [column[i] for i in first] for name, column in asked.columns.items()},
        }  # fmt: skip
    read = lm.read_supervised if kind in ("messages", "completion") else lm.read_preferences
    data = read(options.data, max_length=config.max_length, max_prompt_length=room, tokenizer=tokenizer)
    first = np.arange(len(data))[only]
    rows = data.rows(first)
    # The rival is the response that the data hold to be the best, the first of several.
    best = np.zeros(len(first), int)
    for field in ("win_rate", "reward"):
        if field in rows:
            best = np.asarray(rows[field]).argmax(-1)
            break
    each = np.arange(len(first))
    known = kind == "pairs" or "preference" in rows or "reward" in rows  # which of two is the chosen one
    said = ids_of(rows["tokens"][each, best], rows["loss_mask"][each, best])
    return {
        "prompts": prompts_of(rows, tokenizer.pad),
        "texts": [data.prompt_texts[i] for i in first],
        "rivals": Written([[tokenizer.decode(one)] for one in said], [[one] for one in said]),
        "columns": {},
        "pairs": (data, first) if data.num_responses == 2 and known else None,
        "ranked": kind == "responses",
    }


def run(options: argparse.Namespace) -> int:
    """Sample responses of one model or several to the prompts of a file, and measure them.

    Rewards and judges see the texts; KL, entropy and lengths are of the tokens.
    """
    import jax

    from tpu.evaluation import evaluate, evaluate_pairs, respond
    from tpu.models import load_model
    from tpu.reading import reading
    from tpu.rewards import load, load_judge

    sampling, key = sampling_of(options), jax.random.key(options.seed)
    against = options.against or ("data" if options.reference is None else "reference")
    if against == "reference" and options.reference is None:
        raise UsageError("--against reference: name the --reference")
    with reading("--reward"):
        reward = load(",".join(options.reward)) if options.reward else None
    with reading("--judge"):
        judge = load_judge(options.judge) if options.judge else None
    reference, ref_tokenizer = None, None
    if options.reference is not None:
        with reading("--reference"):
            config, params, ref_tokenizer = load_model(options.reference, seed=options.seed)
            reference = (config, params)
    rows: list[dict[str, Any]] = []
    written: list[dict[str, Any]] = []
    rivals = None
    common = {"sampling": sampling, "batch": options.batch}
    for name in options.model:
        with reading("--model"):
            config, params, tokenizer = load_model(name, seed=options.seed)
            if reference is not None:
                _check_same_tokens(name, (config, tokenizer), options.reference, (reference[0], ref_tokenizer))
        with reading("--data"):
            asked = _read(options, config, tokenizer)
        if judge is not None and against == "data" and asked["rivals"] is None:
            raise UsageError("--judge: the data hold no responses to compare with; give --reference")
        try:
            if judge is not None and against == "reference" and rivals is None:
                assert reference is not None
                other = jax.random.fold_in(key, 1)  # apart from the policy's, which would be the same texts
                rivals = respond(
                    reference, tokenizer, asked["prompts"], other, num_samples=options.num_samples, **common
                ).written
            found, responses = evaluate(
                (config, params), tokenizer, asked["prompts"], asked["texts"], key, reference=reference, reward=reward,
                judge=judge, rivals=rivals if against == "reference" else asked["rivals"],
                columns=asked["columns"], num_samples=options.num_samples, **common,
            )  # fmt: skip
            if asked["pairs"] is not None:
                data, index = asked["pairs"]
                found |= evaluate_pairs(
                    (config, params),
                    reference,
                    data,
                    index=index,
                    beta=options.beta,
                    batch=options.batch,
                    ranked=asked["ranked"],
                )
        except (ValueError, jax.errors.JaxRuntimeError) as error:
            raise Failed(f"{name}: {error}") from None
        rows.append({"model": name, **found})
        written += [
            {"model": name, "prompt": prompt, "completions": texts}
            for prompt, texts in zip(asked["texts"], responses.texts, strict=True)
        ]
        if not options.json and sys.stderr.isatty():
            print(f"{name}: done", file=sys.stderr)
    whole_thing = {
        "data": options.data, "reference": options.reference, "reward": options.reward, "judge": options.judge,
        "against": against if judge else None, "sampling": vars(sampling), "seed": options.seed, "models": rows,
    }  # fmt: skip
    if options.out is not None:
        try:
            _write(Path(options.out), whole_thing, written)
        except OSError as error:
            raise Failed(f"--out {options.out}: {error.strerror or error}") from None
    print(json.dumps(_plain(whole_thing)) if options.json else table(rows))
    return OK


def _check_same_tokens(name: str, one: tuple[Any, Any], other_name: str, other: tuple[Any, Any]) -> None:
    sizes = [config.vocab_size for config, _ in (one, other)]
    probe = [tokenizer.encode("A probe: naïve 12,345 tokens.\n") for _, tokenizer in (one, other)]
    if sizes[0] != sizes[1] or probe[0] != probe[1]:
        raise UsageError(
            f"--reference {other_name} has other tokens than --model {name} ({sizes[1]} and {sizes[0]} of them); "
            "log-probs of the same tokens are compared"
        )


def _plain(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _write(folder: Path, found: dict[str, Any], written: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval.json").write_text(json.dumps(_plain(found), indent=2) + "\n", encoding="utf-8")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
    (folder / "responses.jsonl").write_text(lines, encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each model, its numbers with their standard errors; then the best-of-n curves."""
    present = [n for n in COLUMNS if n in rows[0]] + [n for n in rows[0] if n.startswith("reward/") and n[-3:] != "_se"]

    def cell(row: dict[str, Any], name: str) -> str:
        error = row.get(f"{name}_se", np.nan)
        return f"{row[name]:.4g}" + (f" ± {error:.2g}" if np.isfinite(error) else "")

    lines = [["model", *present], *([row["model"], *(cell(row, name) for name in present)] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(one.ljust(width) for one, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    for row in rows:
        if len(row.get("best_of_n", ())) > 1:
            curve = ", ".join(f"{point['n']}: {point['reward']:.4g}" for point in row["best_of_n"])
            text.append(f"{row['model']}: reward of the best of n  {curve}")
    return "\n".join(text)
