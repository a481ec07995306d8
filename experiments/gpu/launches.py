"""Counts kernel launches from what XLA writes about a compiled program.

XLA executes a program as a sequence of thunks: kernels, copies, library calls, loops, and command
buffers, which are CUDA graphs of several kernels that the host enqueues at once. The text of the
optimised program says how often each loop runs.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

_THUNK = re.compile(r"( *)\d{3}: k(\w+)\s*(?:\[.*?\])?\s*(\S*)")
_WHILE = re.compile(r' while\(.*?body=%?([\w.-]+).*?op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_NOT_LAUNCHED = {"While", "CommandBuffer", "DynamicSliceFusion", "Sequential", "Conditional"}  # these hold others
_ENQUEUED_AT_ONCE = {"CommandBuffer"}


@dataclass
class Thunk:
    """One thunk. Those of a loop are the thunks of its body."""

    kind: str
    name: str
    inner: list["Thunk"] = field(default_factory=list)


class Loop(NamedTuple):
    """One loop of the optimised program."""

    body: str
    trips: int | None
    op_name: str


class Launches(NamedTuple):
    """What one gradient launches.

    Attributes:
        forward: Kernels and copies in the loops over time steps of the forward pass, per time step.
        backward: The same of the backward pass.
        enqueued_forward: What the host enqueues for them, per time step: a command buffer counts
            once.
        enqueued_backward: The same of the backward pass.
        total: All kernels and copies of one gradient, those outside these loops too.
        enqueued: All that the host enqueues for one gradient.
    """

    forward: float
    backward: float
    enqueued_forward: float
    enqueued_backward: float
    total: int
    enqueued: int


def parse_thunks(text: str) -> list[Thunk]:
    """Parses the thunk sequence that `--xla_dump_to` writes."""
    rows: list[tuple[int, str, str]] = []
    for line in text.splitlines():
        if match := _THUNK.match(line):
            rows.append((len(match[1]), match[2], match[3]))
        elif line.strip() in ("condition:", "body:"):
            rows.append((len(line) - len(line.lstrip()), line.strip(), ""))
    position = 0

    def block(depth: int) -> list[Thunk]:
        nonlocal position
        thunks = []
        while position < len(rows) and rows[position][0] >= depth and not rows[position][1].endswith(":"):
            own_depth, kind, name = rows[position]
            position += 1
            thunk = Thunk(kind, name)
            if kind == "While":
                position += 1  # condition: evaluated on the host if the number of steps is known
                block(rows[position][0])
                position += 1  # body:
                thunk.inner = block(rows[position][0])
            elif position < len(rows) and rows[position][0] > own_depth and not rows[position][1].endswith(":"):
                thunk.inner = block(rows[position][0])
            thunks.append(thunk)
        return thunks

    return block(0)


def parse_loops(text: str) -> dict[str, list[Loop]]:
    """Parses the loops of each computation in the text of an optimised program, in order.

    The key of the entry computation is `"ENTRY"`.
    """
    loops: dict[str, list[Loop]] = {}
    current = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = "ENTRY" if match[1] else match[2]
        elif match := _WHILE.search(line):
            trips = _TRIPS.search(line)
            loops.setdefault(current, []).append(Loop(match[1], int(trips[1]) if trips else None, match[2]))
    return loops


def count_launches(thunk_text: str, program_text: str, steps: int) -> Launches:
    """Counts the launches of a compiled gradient over `steps` time steps.

    Raises:
        ValueError: If a loop runs an unknown number of times.
    """
    loops = parse_loops(program_text)
    found: Counter[str] = Counter()

    def visit(thunks: list[Thunk], computation: str, times: int, direction: str, by_host: bool) -> None:
        own_loops = iter(loops.get(computation, ()))
        over_steps = bool(direction) and not any(each.kind == "While" for each in _all(thunks))

        def visit_one(thunk: Thunk, by_host: bool) -> None:
            if thunk.kind == "While":
                loop = next(own_loops)
                if loop.trips is None:
                    raise ValueError(f"loop {loop.op_name}: got an unknown number of steps, expected a constant one.")
                own_direction = "backward" if "transpose(" in loop.op_name else "forward"
                visit(thunk.inner, loop.body, times * loop.trips, direction or own_direction, by_host)
                return
            is_launched, is_enqueued = thunk.kind not in _NOT_LAUNCHED, by_host and thunk.kind in _ENQUEUED_AT_ONCE
            found["total"] += times * is_launched
            found["enqueued"] += times * (is_enqueued or (by_host and is_launched))
            if over_steps:
                found[direction] += times * is_launched
                found[f"enqueued_{direction}"] += times * (is_enqueued or (by_host and is_launched))
            for each in thunk.inner:
                visit_one(each, by_host and not is_enqueued)

        for thunk in thunks:
            visit_one(thunk, by_host)

    visit(parse_thunks(thunk_text), "ENTRY", 1, "", True)
    names = ("forward", "backward", "enqueued_forward", "enqueued_backward")
    per_step = {name: round(found[name] / steps, 2) for name in names}
    return Launches(**per_step, total=found["total"], enqueued=found["enqueued"])


def _all(thunks: list[Thunk]) -> Iterator[Thunk]:
    """Returns the thunks with all that they hold."""
    for thunk in thunks:
        yield thunk
        yield from _all(thunk.inner)
