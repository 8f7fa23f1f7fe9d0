"""The rivals: TRL's DPOTrainer and transformers' generate, run as a script by whatever interpreter has them.

    python in_torch.py '{"task": "dpo", "folder": ..., ...}'

It needs torch, transformers and trl, and nothing of alignjax. A line on standard input asks for one step (or one call
of generate); a line of JSON on standard output says how long it took: `seconds` by the clock, `cpu` of all threads,
`tokens`. The first line says that all is ready, and the versions. So the two sides of a race can take turns.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print goes to standard error


def say(**facts: Any) -> None:
    """One line for the other side."""
    OUT.write(json.dumps(facts) + "\n")
    OUT.flush()


def asked() -> None:
    """Waits for the next line; the end of input ends the script."""
    if not sys.stdin.readline():
        sys.exit(0)


def clocks() -> tuple[float, float]:
    """(the time, processor time of all threads), seconds."""
    return time.perf_counter(), time.process_time()


def taken(since: tuple[float, float]) -> dict[str, float]:
    """What has passed."""
    now = clocks()
    return {"seconds": now[0] - since[0], "cpu": now[1] - since[1]}


def dpo(job: dict[str, Any]) -> None:
    """Steps of TRL's trainer on the same texts over and over, in its fastest setting on a CPU."""
    import torch
    import transformers
    import trl

    datasets: Any = import_module("datasets")
    rows = datasets.Dataset.from_list(job["rows"] * (job["steps"] + 2))
    model = transformers.AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["folder"])
    settings = trl.DPOConfig(
        output_dir=os.path.join(job["folder"], "trl"), per_device_train_batch_size=len(job["rows"]),
        max_steps=job["steps"], max_length=job["length"], beta=0.1, learning_rate=1e-6, use_cpu=True, bf16=False,
        fp16=False, gradient_checkpointing=False, logging_strategy="no", save_strategy="no", report_to=[],
        disable_tqdm=True, dataloader_drop_last=True, optim="adamw_torch", max_grad_norm=1.0,
    )  # fmt: skip
    at: list[tuple[float, float]] = []
    seen: dict[str, int] = {}

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        """Each step waits to be asked for."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            asked()
            at.append(clocks())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            say(**taken(at[-1]), tokens=seen["tokens"])

    class Trainer(trl.DPOTrainer):  # type: ignore[misc]
        """Counts the positions that it is given."""

        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            seen["tokens"] = inputs["input_ids"].numel()
            return super().compute_loss(model, inputs, *rest, **more)

    trainer = Trainer(
        model=model, args=settings, train_dataset=rows, processing_class=tokenizer, callbacks=[Clock()]
    )  # fmt: skip
    say(ready=True, versions={name: version(name) for name in ("torch", "transformers", "trl")})
    trainer.train()


def generate(job: dict[str, Any]) -> None:
    """Sampling with the key/value cache, as many new tokens as were asked for, whatever they are."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32).eval()
    prompts = torch.tensor(job["prompts"])
    new = job["new_tokens"]
    run: Callable[[], Any] = lambda: model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        use_cache=True, max_new_tokens=new, min_new_tokens=new, pad_token_id=0, num_return_sequences=job["samples"],
    )  # fmt: skip
    say(ready=True, versions={name: version(name) for name in ("torch", "transformers")})
    while True:
        asked()
        at = clocks()
        with torch.inference_mode():
            out = run()
        say(**taken(at), tokens=int(out.shape[0] * (out.shape[1] - prompts.shape[1])))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    {"dpo": dpo, "generate": generate}[given["task"]](given)
