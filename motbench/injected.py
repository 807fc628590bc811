"""`motbench gate --selftest --inject`: slowdowns of known length, measured and judged on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import typing
from collections import deque
from pathlib import Path

if typing.TYPE_CHECKING:
    from benchmarks.harness.injected import Plan, Turn
    from benchmarks.harness.records import Environment
    from motbench.compare import Request
    from reports.joint import Joint

SLOWED_ROUNDS = 6
"""Rounds that measure the slowdowns: every side stands twice in every place. The others measure the A/A pair alone."""
AHEAD = {"gpu": 3, "cpu": 0}
"""Processes that import while another one measures: not on a CPU, where that would be measured too."""
TURN_S = 120.0
"""Seconds that a process may take for its turn; the first compiles."""


def measure(root: Path, folder: Path, request: Request) -> list[Path]:
    """Walk the rounds; the folders of what was measured: first that of the A/A runs. Ends at a whole round.

    Raises ValueError, with its last words, if a process breaks: this tests the machine, and half of it tests nothing.
    """
    from benchmarks.harness import clock, environment, injected
    from benchmarks.harness.rounds import ORDERS
    from reports import decide, joint

    started = time.monotonic()
    here = _here(root)
    commit = environment.git(root, "rev-parse", "HEAD")
    plan = injected.Plan(
        str(folder),
        commit,
        here.fingerprint,
        here.profile,
        injected.SERIES[here.profile],
        list(injected.FRACTIONS),
    )
    least = [request.smallest or decide.matters(here.profile, series.benchmark) for series in plan.series]
    command = "motbench gate --selftest --inject"
    asked = joint.Asked(commit, commit, here, clock.PROTOCOL, plan.series, least, environment.now(), command)
    folders = [folder / injected.folder_of(fraction) for fraction in (0.0, *plan.fractions)]
    for one in folders:
        joint.write(one, asked)
    crew = _Crew(root, plan)
    try:
        crew.send(injected.Turn(""))
        for number in range(request.rounds):
            before = time.monotonic()
            for order, side in enumerate(ORDERS[number % len(ORDERS)]):
                crew.send(injected.Turn(side, number, order, number < SLOWED_ROUNDS))
            now = time.monotonic()
            print(f"  round {number + 1:2}  {now - before:.1f} s", flush=True)
            if request.budget_s is not None and now - started + (now - before) > request.budget_s:
                break
    finally:
        crew.dismiss()
    return folders


def table(judged: list[tuple[str, Joint]]) -> str:
    """What was made of each slowdown, series by series, as Markdown."""
    from reports import words

    head = ("series", "added", "measured", "interval", "verdict", "could see", "base against base", "rounds")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, joint in judged:
        for one in sorted(joint.decisions, key=lambda decision: decision.series.label):
            cells = [f"`{one.series.label}`", name.replace("-", " ")]
            if one.change and one.control:
                cells += [
                    words.change(one.change.ratio - 1),
                    f"{words.change(one.change.low - 1)} to {words.change(one.change.high - 1)}",
                    one.status,
                    words.change(one.visible),
                    words.change(one.control.ratio - 1),
                ]
            else:
                cells += ["", "", one.status, "", ""]
            lines.append(f"| {' | '.join([*cells, str(one.rounds)])} |")
    return "\n".join(lines)


class _Crew:
    """Processes that take one turn each; some import while another one measures."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self._root, self._plan = root, plan
        self._waiting: deque[subprocess.Popen[str]] = deque()

    def send(self, turn: Turn) -> None:
        """Let one process take its turn, and wait until it has ended. Raises ValueError with its last words."""
        from benchmarks.harness.records import plain

        self._fill(1)
        process = self._waiting.popleft()
        with process:
            try:
                if process.stdout is not None:
                    process.stdout.readline()  # it is ready, or has died
                self._fill(AHEAD[self._plan.profile])
                _, said = process.communicate(json.dumps(plain(turn)) + "\n", timeout=TURN_S)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise ValueError(f"a process took longer than {TURN_S:.0f} s for its turn and was ended") from error
        if process.returncode:
            words = [line.strip() for line in said.splitlines() if line.strip()]
            raise ValueError(f"a process broke: {words[-1] if words else f'exit code {process.returncode}'}")

    def dismiss(self) -> None:
        """End those that wait."""
        for process in self._waiting:
            process.kill()
            process.communicate()

    def _fill(self, wanted: int) -> None:
        from benchmarks.harness.records import plain

        command = [sys.executable, "-P", "-m", "benchmarks.harness.injected", json.dumps(plain(self._plan))]
        pipe, env = subprocess.PIPE, _environment(self._root, self._plan.profile)
        while len(self._waiting) < wanted:
            self._waiting.append(
                subprocess.Popen(command, cwd=self._root, env=env, text=True, stdin=pipe, stdout=pipe, stderr=pipe)
            )


def _environment(root: Path, profile: str) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return env | {"PYTHONPATH": str(root)} | ({"TRITON_INTERPRET": "1"} if profile == "cpu" else {})


def _here(root: Path) -> Environment:
    """This machine, looked at by a process of its own: this one must hold nothing on the GPU while others measure."""
    from benchmarks.harness.records import Environment, from_dict

    look = (
        "import json; from benchmarks.harness import environment, records; "
        "print(json.dumps(records.plain(environment.here())))"
    )
    env = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-P", "-c", look], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the machine cannot be looked at: {done.stderr.strip().splitlines()[-1]}")
    found: Environment = from_dict(Environment, json.loads(done.stdout))
    return found
