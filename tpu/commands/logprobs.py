"""`python -m tpu logprobs`."""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from alignjax import checks
from tpu.arguments import OK, Failed, UsageError, whole

SAYS = "write the log-probs of a reference or past policy next to the data, once"
EPILOG = """Exit status: 0 done, 1 it failed on the way, 2 it could not start. After a cut it goes on from where it
was, and with more data it scores what is new. Then: python -m tpu train ... --ref-logps FILE"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `logprobs`."""
    parser.add_argument(
        "--model", default="tiny", metavar="DIR", help="a folder of weights, or a preset (default: tiny)"
    )
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="FILE", help="JSONL or Parquet of prompts with responses"
    )
    parser.add_argument("--out", metavar="FILE", help="default: next to the data, e.g. pairs.ref.safetensors")
    parser.add_argument(
        "--as", dest="role", default="ref", metavar="ROLE",
        help="what the model is to a run: ref, anchor, behaviour or opponent (default: ref)",
    )  # fmt: skip
    parser.add_argument("--batch", type=whole(1), default=8, metavar="B", help="prompts at a time (default: 8)")
    parser.add_argument("--max-length", type=whole(2), metavar="T", help="as in training (default: the model's)")
    parser.add_argument("--max-prompt-length", type=whole(1), metavar="P", help="as in training")
    parser.add_argument("--too-long", default="drop", metavar="POLICY", help="as in training (default: drop)")
    parser.add_argument("--seed", type=whole(0), default=0, help="of a preset's parameters (default: 0)")
    parser.add_argument("--dtype", metavar="NAME", help="of the computation (default: that of the parameters)")
    parser.add_argument("--param-dtype", default="float32", metavar="NAME", help="as in training (default: float32)")
    parser.add_argument("--mesh", metavar="AXES", help="e.g. data=4,tensor=2 (default: all devices on data)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, and nothing else")


def _data(options: argparse.Namespace, config: Any, tokenizer: Any) -> Any:
    """The rows as training reads them."""
    from alignjax import lm
    from alignjax.lm.preference_data import data_kind, read_preferences, read_supervised

    longest = options.max_length or config.max_length
    if longest > config.max_length:
        raise UsageError(f"--max-length {longest} is more than the {config.max_length} that {options.model} takes")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            kind = data_kind(options.data)
            if kind == "prompts":
                raise UsageError(f"--data {' '.join(options.data)}: prompts alone have no responses to score")
            read = read_supervised if kind in ("messages", "completion") else read_preferences
            data = read(
                options.data, max_length=longest, tokenizer=tokenizer, max_prompt_length=options.max_prompt_length,
                too_long=options.too_long,
            )  # fmt: skip
        except OSError as error:
            raise UsageError(f"--data {error.filename or ''}: {error.strerror or error}") from None
        except lm.DataError as error:
            raise UsageError(f"--data {error}") from None
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return data


def run(options: argparse.Namespace) -> int:
    """Score every response of the data by a model that stands still, and keep the log-probs of its tokens in a file.

    Training reads them instead of holding that model. The file knows each response by its tokens and the model by its
    fingerprint: rows may be shuffled, split or padded otherwise, and what does not match is refused.
    """
    import dataclasses

    import jax

    from alignjax import lm
    from tpu.fingerprint import fingerprint
    from tpu.mesh import make_mesh
    from tpu.models import load_model
    from tpu.partition import batch_shardings, shardings, spec
    from tpu.parts import scorer
    from tpu.precompute import FIELDS, Mismatch, check_model, make, read

    try:
        role = checks.member("role (--as)", options.role, FIELDS)
        config, params, tokenizer = load_model(options.model, seed=options.seed, dtype=options.param_dtype)
        config = dataclasses.replace(config, dtype=options.dtype or options.param_dtype)
        data = _data(options, config, tokenizer)
        first = Path(options.data[0])
        out = Path(options.out) if options.out else first.with_name(f"{first.stem}.{role}.safetensors")
        mesh = make_mesh(options.mesh)
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        spec(("position",), (data.length,), mesh, name="tokens")
        batch_size = -(-min(options.batch, len(data)) // ways) * ways
        params = jax.device_put(params, shardings(lm.logical_axes(config), params, mesh))
        about = {
            "model": fingerprint(params), "name": Path(options.model).name, "role": role, "dtype": config.dtype,
            "jax": jax.__version__,
        }  # fmt: skip
        if out.exists():
            check_model(out, read(out)[1], about["model"])
    except Mismatch as error:
        raise UsageError(f"--out {error}; delete it, or name another --out") from None
    except OSError as error:
        raise UsageError(f"{error.filename or '--out'}: {error.strerror or error}") from None
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None

    score = scorer(config, mesh)
    place = lambda batch: jax.device_put(batch, batch_shardings(batch, mesh))
    try:
        done = make(
            out, data, lambda batch: score(params, place(batch)), about, batch_size=batch_size, watch=_progress
        )  # fmt: skip
    except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
        raise Failed(str(error)) from None
    summary = {**done, **about, "field": FIELDS[role], "out": str(out)}
    if options.json:
        print(json.dumps(summary))
    else:
        print(f"{done['responses']} responses, {done['scored']} of them scored now, by model {about['model']}\n{out}")
    return OK


def _progress(steps: list[Any]) -> Any:
    from tqdm import tqdm

    return tqdm(steps, desc="logprobs", disable=not sys.stderr.isatty())
