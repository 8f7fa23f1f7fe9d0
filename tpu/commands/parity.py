"""`python -m tpu parity`."""

import argparse
import json

from tpu.arguments import FAILED, OK, UsageError

SAYS = "compare a checkpoint with transformers, and losses and gradients with TRL's formulas"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `parity`."""
    parser.add_argument("--model", required=True, metavar="DIR", help="a Hugging Face folder")
    parser.add_argument("--seed", type=int, default=0, help="of the tokens and of the policy's noise (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Compare a checkpoint with PyTorch: logits with transformers', losses and gradients of the pairwise methods with
    the formulas TRL publishes. Needs the extra `parity`. Exit status 1 if anything is out of its bound.
    """
    try:
        from tpu.parity import compare

        report = compare(options.model, seed=options.seed)
    except ImportError as error:
        raise UsageError(f"needs torch and transformers (pip install -e '.[parity]'): {error}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"--model {options.model}: {error}") from None
    if options.json:
        print(json.dumps(report))
    else:
        for name, row in report["rows"].items():
            print(f"{'ok  ' if row['holds'] else 'FAIL'} {name:45} {row['error']:.1e} (at most {row['bound']:.0e})")
    return OK if report["holds"] else FAILED
