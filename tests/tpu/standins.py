"""Stand-ins for what starts a job: `ssh`, `srun`, `scontrol` as small programs, and JobSet as a few lines.

The recipes are run as they were written; only the machines are missing, so that all processes run here, on CPU.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

SSH = """#!/usr/bin/env bash
while [ "$1" = -o ]; do shift 2; done # options
echo "$1" >>"$STANDINS/hosts"
shift
exec bash -c "$*"
"""
SRUN = """#!/usr/bin/env bash
# Starts $TASKS tasks, sends SIGTERM on to them, and ends with the highest status, as srun does.
while [[ "$1" == -* ]]; do shift; done
pids=()
for ((task = 0; task < TASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=0 SLURM_NTASKS=$TASKS SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_NODES=$TASKS \\
    "$@" &
  pids+=($!)
  echo $! >"$STANDINS/task$task"
done
worst=0
for pid in "${pids[@]}"; do
  wait "$pid"
  status=$?
  [ $status -gt $worst ] && worst=$status
done
exit $worst
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >>"$STANDINS/requeued"
"""
STUB = """#!/usr/bin/env bash
# In place of Python: keeps its arguments, and ends with the next status of the plan of its process.
me=0
for word in "$@"; do [[ $word == --process-id=* ]] && me=${word#*=}; done
me=${SLURM_PROCID:-$me}
printf '%s\\0' "$@" >"$STANDINS/arguments$me"
read -r status rest <"$STANDINS/plan$me"
echo "$rest" >"$STANDINS/plan$me"
exit "${status:-0}"
"""


def install(folder: Path, *, quick: bool = False) -> dict[str, str]:
    """The programs in a folder of their own, first on the PATH of the environment that is returned."""
    programs = {"ssh": SSH, "srun": SRUN, "scontrol": SCONTROL, "stub": STUB}
    if quick:
        programs["sleep"] = "#!/usr/bin/env bash\nread -rt 0.05 <> <(:)\nexit 0\n"
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "STANDINS": str(folder), "PYTHONPATH": str(ROOT)}


def plan(folder: Path, **statuses: str) -> None:
    """The statuses with which the stub ends, start by start: `plan(folder, plan0="75 0", plan1="75 0")`."""
    for name, words in statuses.items():
        (folder / name).write_text(f"{words}\n")


def arguments(folder: Path, process: int = 0) -> list[str]:
    """What the stub was last called with."""
    return (folder / f"arguments{process}").read_bytes().decode().split("\0")[:-1]


class Pods:
    """A JobSet on this machine: all pods of a start, and what the controller does when they have ended.

    `expanded` is what Kubernetes does with $(NAME) in a command; the policies are those of its and JobSet's API.
    """

    def __init__(self, manifest: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.spec, self.environment = manifest["spec"], dict(environment)
        (self.replicated,) = self.spec["replicatedJobs"]
        self.job = self.replicated["template"]["spec"]
        (self.container,) = self.job["template"]["spec"]["containers"]

    def start(self, tell: Callable[[int, int], Mapping[str, str]], log: Path) -> list[subprocess.Popen[bytes]]:
        """One process for each pod. `tell(job, index)`: the variables that GKE gives it; `log` takes what it prints."""
        started = []
        for job in range(self.replicated["replicas"]):
            for index in range(self.job["completions"]):
                own = {one["name"]: unescaped(one["value"]) for one in self.container.get("env", ())}
                seen = {**own, "JOB_COMPLETION_INDEX": str(index), **tell(job, index)}
                command = [expanded(word, seen) for word in self.container["command"]]
                with log.open("a") as file:
                    started.append(
                        subprocess.Popen(
                            command,
                            cwd=ROOT,
                            env={**self.environment, **seen},
                            stdout=file,
                            stderr=subprocess.STDOUT,
                            start_new_session=True,
                        )
                    )
        return started

    def job_reason(self, status: int, disrupted: bool = False) -> tuple[str, str]:
        """Reason and message with which a Job fails whose first pod ended so."""
        for index, rule in enumerate(self.job["podFailurePolicy"]["rules"]):
            codes = rule.get("onExitCodes")
            conditions = [c["type"] for c in rule.get("onPodConditions", ())]
            if (disrupted and "DisruptionTarget" in conditions) or (codes and status in codes["values"]):
                return (
                    "PodFailurePolicy",
                    f"Container train failed with {status} matching FailJob rule at index {index}",
                )
        return "BackoffLimitExceeded", "Job has reached the specified backoff limit"

    def action(self, status: int, disrupted: bool = False) -> str:
        """What JobSet does: the first rule whose reasons and patterns match, RestartJobSet by default."""
        reason, message = self.job_reason(status, disrupted)
        for rule in self.spec["failurePolicy"]["rules"]:
            patterns = rule.get("onJobFailureMessagePatterns", [""])
            if reason in rule["onJobFailureReasons"] and any(re.search(p, message) for p in patterns):
                return str(rule["action"])
        return "RestartJobSet"


def expanded(word: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` of Kubernetes put in; what is not set stays, `$$` is `$`, from left to right, whatever comes behind."""
    put = lambda m: "$" if m[0] == "$$" else environment.get(m[1], m[0])
    return re.sub(r"\$\$|\$\(([^)]*)\)", put, word)


def unescaped(word: str) -> str:
    """A value of `env`, in which nothing is set before it."""
    return expanded(word, {})


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any] | None = None, seconds: float = 240) -> None:
    """Raises: AssertionError if it does not come true, or the process ends before."""
    until = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "it ended before"
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def end(*processes: subprocess.Popen[Any]) -> None:
    """SIGKILL to the groups of processes that were started as sessions of their own."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
