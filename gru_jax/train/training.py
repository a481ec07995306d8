"""The loop around the compiled program: what happens between dispatches. Evaluation, checkpoints, history, signals, the end."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.train import folder as folders
from gru_jax.train import parallel
from gru_jax.train.checkpoint import orbax
from gru_jax.train.history import History
from gru_jax.train.nonfinite import explain
from gru_jax.train.program import Setup, State, dispatch
from gru_jax.train.progress import progress_bar
from gru_jax.train.results import Fit, Moment
from gru_jax.train.signals import Signals
from gru_jax.train.stopping import Best, EarlyStopping


class Plan(NamedTuple):
    """What `fit` and `search` have checked and set up."""

    setup: Setup
    source: Any
    key: jax.Array  # or one for each member
    steps: int
    steps_per_dispatch: int
    evaluate: Callable[[Any], Any] | None
    evaluate_every: int | None
    early_stopping: EarlyStopping | None
    folder: str | os.PathLike[str] | None
    save_every: int | None
    keep: int
    config: dict[str, Any] | None
    resume: bool
    callbacks: tuple[Callable[[Moment], Any], ...]
    progress: bool
    hyper: dict[str, jax.Array]


def train(plan: Plan, state: State) -> Fit:
    """Runs a plan from a state; the docstring of `fit` says what happens."""
    path = None if plan.folder is None else Path(plan.folder).absolute()
    writes = parallel.first_process()
    if path is not None:
        orbax()  # raises before a step is taken
    if path is not None and writes:
        path.mkdir(parents=True, exist_ok=True)
    lock = folders.Lock(path if writes else None)
    try:
        bar = progress_bar(plan.progress and writes, plan.steps)
        try:
            with Signals(path is not None) as signals:
                training = _Training(plan, state, path, writes)
                try:
                    return training.run(signals, bar)
                finally:
                    training.history.close()
        finally:
            bar.close()
    finally:
        lock.release()


class _Training:
    """A run in progress."""

    def __init__(self, plan: Plan, state: State, path: Path | None, writes: bool) -> None:
        self.plan, self.path, self.writes = plan, path, writes
        mesh = plan.setup.mesh
        keys = jax.vmap(jax.random.split)(plan.key) if plan.setup.members else jax.random.split(plan.key)
        self.key_shuffle, key_steps = (keys[:, 0], keys[:, 1]) if plan.setup.members else (keys[0], keys[1])
        self.best, self.evaluated = Best(), -1
        self.best_params = _copied(state.member.params) if plan.early_stopping is not None else None
        self.run_folder = None if path is None else folders.Run(path, plan.config or {}, plan.keep)
        self.done, state, forms = self._resumed(state)
        if mesh is not None:
            _, addresses = self._addresses(self.done, 1)
            parallel.check_split(mesh, plan.setup.kinds, plan.source.data, addresses, state.member.carry)
        self.data = self._placed_data()
        self.key, self.hyper = parallel.place(mesh, key_steps), parallel.place(mesh, plan.hyper)
        carry = parallel.place(mesh, state.member.carry, split=True)
        self.state = parallel.place(mesh, state._replace(member=state.member._replace(carry=None)))
        self.state = self.state._replace(member=self.state.member._replace(carry=carry))
        self.history = History(path, writes, self.done, self.evaluated, *forms)

    def _resumed(self, state: State) -> tuple[int, State, tuple[dict[str, Any], dict[str, str]]]:
        """The step to go on from, its state, and the forms of the metrics and evaluations so far."""
        if self.run_folder is None:
            return 0, state, ({}, {})
        found = folders.resume(self.run_folder, self._tree(state))
        if found is None:
            return 0, state, ({}, {})
        if not self.plan.resume:
            raise ValueError(
                f"folder: {self.path} holds a run at step {found[0]}. Pass resume=True to go on, or use another folder."
            )
        done, tree, meta = found
        self.best, self.evaluated = Best(*meta["best"]), meta["evaluated"]
        self.best_params = tree["best"]
        return done, State(_copied(tree["member"]), jnp.asarray(done, jnp.int32)), (meta["metrics"], meta["evaluations"])

    def _tree(self, state: State) -> dict[str, Any]:
        return {"member": state.member, "best": self.best_params}

    def _placed_data(self) -> Any:
        """The data on the device, once, not at every dispatch."""
        plan = self.plan
        parts = plan.source.data if len(plan.setup.kinds) > 1 else (plan.source.data,)
        placed = tuple(
            parallel.place(plan.setup.mesh, part, split=kind.data_is_split)
            for kind, part in zip(plan.setup.kinds, parts, strict=True)
        )
        return placed if len(plan.setup.kinds) > 1 else placed[0]

    def _addresses(self, step: int, steps: int) -> tuple[np.ndarray, Any]:
        """Which kind, and the addresses, of the steps from `step` on."""
        plan = self.plan
        if not plan.setup.members:
            return plan.source.addresses(self.key_shuffle, step, steps)
        if not plan.setup.own_order:
            return plan.source.addresses(self.key_shuffle[0], step, steps)
        each = [plan.source.addresses(key, step, steps) for key in self.key_shuffle]
        return each[0][0], jnp.stack([rows for _, rows in each], 1)

    def run(self, signals: Signals, bar: Any) -> Fit:
        """All dispatches, and what happens between them."""
        plan, stopped = self.plan, None
        bar.update(self.done)
        saved = self.done if self.done else -1
        while True:
            if self._due(plan.evaluate_every) or self.done >= plan.steps or stopped:
                self._evaluate()
            if plan.early_stopping is not None and self.best.is_over(plan.early_stopping):
                stopped = "early_stopping"
            signal = parallel.any_process(signals.received is not None)
            ends = self.done >= plan.steps or stopped is not None or signal
            if (
                self.path is not None
                and saved != self.done
                and (ends or (self.done and plan.save_every and self.done % plan.save_every == 0))
            ):
                self._save()
                saved = self.done
            if signal:
                raise SystemExit(128 + (signals.received or 15))
            if ends:
                break
            metrics = self._dispatch()
            bar.update(len(metrics["loss"]))
            bar.set_postfix(loss=f"{np.mean(metrics['loss'][-1]):.4g}")
            moment = Moment(self.done, self.state.member.params, self.state.member.opt_state, metrics)
            if any([callback(moment) is True for callback in plan.callbacks]):
                stopped = "callback"
        return self._fit(stopped)

    def _due(self, every: int | None) -> bool:
        return self.done == 0 if every is None else self.done % every == 0

    def _until(self) -> int:
        """The step up to which the next dispatch goes."""
        plan, stops = self.plan, [self.plan.steps, self.done + self.plan.steps_per_dispatch]
        for every in (plan.evaluate_every if plan.evaluate else None, plan.save_every):
            if every:
                stops.append(self.done - self.done % every + every)
        return min(stops)

    def _dispatch(self) -> dict[str, np.ndarray]:
        """One call of the compiled program."""
        plan, room = self.plan, self.plan.steps_per_dispatch
        steps = self._until() - self.done
        which, addresses = self._addresses(self.done, room)
        mesh = plan.setup.mesh
        placed = (parallel.place(mesh, which), parallel.place(mesh, addresses), parallel.place(mesh, np.int32(steps)))
        self.state, found = dispatch(self.state, self.data, *placed, self.key, self.hyper, setup=plan.setup)
        taken = int(self.state.step) - self.done
        metrics = {name: np.asarray(values)[:taken] for name, values in found.items()}
        self.history.add(self.done, metrics)
        self.done += taken
        if taken < steps or (not plan.setup.members and int(self.state.member.in_a_row) >= plan.setup.patience):
            self._give_up(which[taken - 1], jax.tree.map(lambda leaf: leaf[taken - 1], addresses))
        return metrics

    def _give_up(self, which: Any, address: Any) -> None:
        """Too many updates in a row were not finite.

        Raises:
            FloatingPointError: always.
        """
        self.history.synced()
        raise FloatingPointError(explain(self.plan.setup, self.state, self.done - 1, self.data, which, address, self.key))

    def _evaluate(self) -> None:
        """Evaluates, once at each step."""
        plan = self.plan
        if plan.evaluate is None or self.evaluated == self.done:
            return
        params = self.state.member.params
        metrics = {name: np.asarray(value) for name, value in _evaluated(params, plan.evaluate).items()}
        self.history.evaluated(self.done, metrics)
        self.evaluated = self.done
        if plan.early_stopping is not None:
            self.best = self.best.after(plan.early_stopping, metrics, self.done)
            if self.best.step == self.done:
                self.best_params = _copied(params)

    def _save(self) -> None:
        """A checkpoint, by the first process; the others wait for it."""
        tree = self._tree(self.state._replace(member=parallel.on_host(self.state.member)))
        if self.writes and self.run_folder is not None:
            self.history.synced()
            metrics, evaluations = self.history.forms()
            meta = {"best": list(self.best), "evaluated": self.evaluated, "metrics": metrics, "evaluations": evaluations}
            folders.write(self.run_folder, self.done, tree, meta)
        parallel.wait_for_all(f"saved {self.done}")

    def _fit(self, stopped: str | None) -> Fit:
        member = self.state.member
        history, evaluations = self.history.arrays()
        skipped = np.asarray(member.skipped)
        return Fit(
            params=member.params,
            opt_state=member.opt_state,
            history=history,
            evaluations=evaluations,
            steps=self.done,
            skipped=skipped if self.plan.setup.members else int(skipped),
            carry=member.carry,
            best_params=self.best_params if self.best.step is not None else None,
            best_step=self.best.step,
            stopped=stopped,
        )


@partial(jax.jit, static_argnames=("evaluate",))
def _evaluated(params: Any, evaluate: Callable[[Any], Any]) -> dict[str, jax.Array]:
    return evaluate(params)


def _copied(tree: Any) -> Any:
    """In memory of its own: the state's is donated to the next dispatch."""
    return jax.tree.map(partial(jnp.array, copy=True), tree)
