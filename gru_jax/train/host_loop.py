"""Runs training on the host: executes the compiled program, evaluates, saves and stops."""

import warnings
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._jax.failures import FailureWatch
from gru_jax.train import data_parallel
from gru_jax.train.array_store import import_orbax
from gru_jax.train.background_saves import BackgroundSaves
from gru_jax.train.checkpoint import new_run_id, remove_leftovers
from gru_jax.train.early_stopping import BestEvaluation
from gru_jax.train.feeds import Execution, make_feed
from gru_jax.train.gradients import BatchAddress
from gru_jax.train.history import History
from gru_jax.train.nonfinite_report import nonfinite_report
from gru_jax.train.plans import CheckpointPlan, EvaluationPlan, TrainingPlan
from gru_jax.train.progress_bar import ProgressBar
from gru_jax.train.results import CallbackInfo, FitResult
from gru_jax.train.run_config import digest_of
from gru_jax.train.run_directory import DirectoryLock, RunArrays, RunRecord, make_directory, restore_run, save_run
from gru_jax.train.signals import StopSignals
from gru_jax.train.train_step import ModelState, TrainState, run_steps
from gru_jax.train.tree_paths import is_random_key, named_leaves

_OTHER_PARAMS = (
    "params: got other initial parameters than the run in {} started with. They are not used: the run continues from its checkpoint "
    "of step {}."
)
_MORE_STEPS = (
    "steps: got {}, but the run in {} has already taken {} steps, which is what this call returns. For fewer steps, use another "
    "directory."
)


def train(plan: TrainingPlan, model: ModelState) -> FitResult:
    """Trains `model`, or resumes the run that the plan's directory contains."""
    directory = None if plan.checkpoints is None else plan.checkpoints.directory
    writes_files = data_parallel.is_first_process()
    if directory is not None:
        import_orbax()  # fail before the first step if it is not installed
        if writes_files:
            make_directory(directory)
    with ExitStack() as stack:
        failures = stack.enter_context(FailureWatch())
        stack.enter_context(DirectoryLock(directory if writes_files else None))
        bar = stack.enter_context(closing(ProgressBar(show=plan.progress and writes_files, total=plan.steps)))
        signals = stack.enter_context(StopSignals(active=directory is not None))
        run = TrainingRun(plan, model, writes_files=writes_files)
        stack.enter_context(closing(run.history))
        stack.enter_context(closing(run.feed))
        stack.enter_context(run.saves)
        return run.run(signals, failures, bar)


class TrainingRun:
    """A run in progress.

    Attributes:
        step: The number of optimiser steps taken.
        state: The state on the device.
        best: The best evaluation so far.
        best_params: The parameters of the best evaluation. None without early stopping.
        last_evaluation: The step of the last evaluation; -1 before the first.
        feed: What gives each execution its data.
        position: The position of the data after the last execution. None if it cannot be said.
        last_checkpoint: The step of the last checkpoint; -1 before the first.
        initial_params: A digest of the parameters that the run started with.
        run_id: The id of the run, which is a part of the names of its checkpoints.
        history: The losses, metrics and evaluations.
        saves: Runs saves in a thread.
    """

    def __init__(self, plan: TrainingPlan, model: ModelState, *, writes_files: bool) -> None:
        """Restores the newest checkpoint if there is one, and places everything on the devices."""
        self.plan, self.writes_files, self.saves = plan, writes_files, BackgroundSaves()
        self.spec = plan.program
        keys = jax.vmap(jax.random.split)(plan.key) if self.spec.is_ensemble else jax.random.split(plan.key)
        shuffle_key, step_key = (keys[:, 0], keys[:, 1]) if self.spec.is_ensemble else (keys[0], keys[1])
        self.step, self.last_checkpoint, record, changes, self.run_id = 0, -1, RunRecord(), {}, new_run_id()
        self.best_params = None if plan.early_stopping is None else _copied(model.params)
        if plan.checkpoints is not None:
            digest = digest_of(named_leaves(model.params))
            record = record._replace(initial_params=digest)
            restored = restore_run(plan.checkpoints, RunArrays(model, self.best_params))
            if restored is not None:
                self.step, record, changes, self.run_id = restored.step, restored.record, restored.changes, restored.run_id
                if digest != record.initial_params:
                    warnings.warn(_OTHER_PARAMS.format(plan.checkpoints.directory, self.step), stacklevel=4)
                if self.step > plan.steps:
                    warnings.warn(_MORE_STEPS.format(plan.steps, plan.checkpoints.directory, self.step), stacklevel=4)
                self.last_checkpoint = restored.step
                model, self.best_params = _copied(restored.arrays)
            elif writes_files:  # what is there is from runs that crashed before their first checkpoint
                remove_leftovers(plan.checkpoints.directory)
        self.best: BestEvaluation = record.best
        self.initial_params = record.initial_params
        self.last_evaluation = record.last_evaluation
        mesh = self.spec.mesh
        if mesh is not None:
            data_parallel.check_divisible(mesh, "carry", model.carry)
        self.feed = make_feed(plan, shuffle_key, self.step, record.position)
        self.position = record.position
        self.key, self.hyperparameters = data_parallel.replicate(mesh, (step_key, plan.hyperparameters))
        carry = data_parallel.shard_axis(mesh, model.carry)
        model = data_parallel.replicate(mesh, model._replace(carry=None))._replace(carry=carry)
        self.state = TrainState(model, data_parallel.replicate(mesh, jnp.asarray(self.step, jnp.int32)))
        self.history = History(
            None if plan.checkpoints is None else plan.checkpoints.directory,
            writes_file=writes_files,
            first_step=self.step,
            last_evaluation=self.last_evaluation,
            previous_format=record.history_format,
        )
        if changes:
            self.history.add_changes(self.step, changes)

    def run(self, signals: StopSignals, failures: FailureWatch, bar: ProgressBar) -> FitResult:
        """Alternates executions of the compiled program with evaluations, saves and callbacks.

        Raises:
            SystemExit: If a signal was received. A checkpoint has then been saved.
            RuntimeError: If another process of the run has failed.
        """
        plan, stop_reason = self.plan, None
        bar.start(self.step)
        while True:
            self.saves.raise_if_failed()
            failures.raise_if_failed()
            is_last = self.step >= plan.steps or stop_reason is not None
            self._evaluate_if_due(is_last=is_last)
            if plan.early_stopping is not None and self.best.patience_is_over(plan.early_stopping):
                stop_reason = "early_stopping"
            was_signalled = data_parallel.any_process(signals.received is not None)
            ends = self.step >= plan.steps or stop_reason is not None or was_signalled
            self._save_if_due(is_last=ends)
            if ends and plan.checkpoints is not None:
                self.saves.wait()
                data_parallel.wait_for_all_processes(f"saved {self.step}")
            if was_signalled:
                raise SystemExit(128 + (signals.received or 15))
            if ends:
                return self._result(stop_reason)
            execution = self.feed.next(self.step, lambda: signals.received is not None and jax.process_count() == 1)
            if execution is None:
                stop_reason = None if signals.received is not None else "data"
                continue
            metrics = self._execute(execution)
            evaluation = self._evaluate_if_due(is_last=self.step >= plan.steps)
            if plan.early_stopping is not None:
                bar.show_best(plan.early_stopping.metric, self.best.value, self.best.step)
            elif evaluation:
                bar.show_evaluation(evaluation)
            bar.advance(metrics)
            if not plan.callbacks:
                continue
            params, opt_state, average = _copied(
                (self.state.model.params, self.state.model.opt_state, self.state.model.average)
            )
            ema_params = None if average is None else average.params
            info = CallbackInfo(self.step, params, opt_state, metrics, evaluation, ema_params)
            if any([_is_true(callback(info)) for callback in plan.callbacks]):  # a list, so that every callback is called
                stop_reason = "callback"

    def _execute(self, execution: Execution) -> dict[str, np.ndarray]:
        """Executes the compiled program once, and records the metrics of its steps.

        Raises:
            FloatingPointError: If too many consecutive updates were skipped.
        """
        data, indices, requested, self.position = execution
        placed, steps = data_parallel.replicate(self.spec.mesh, (indices, np.int32(requested)))
        self.state, padded = run_steps(self.state, data, placed, steps, self.key, self.hyperparameters, spec=self.spec)
        taken = int(self.state.step) - self.step
        metrics = {name: np.asarray(values)[:taken] for name, values in padded.items()}
        self.history.add_steps(self.step, metrics)
        self.step += taken
        limit = self.spec.max_consecutive_nonfinite
        if limit is not None and int(self.state.model.consecutive_skipped) >= limit:
            last_batch = BatchAddress(*jax.tree.map(lambda leaf: leaf[taken - 1], indices))
            self.history.sync()
            raise FloatingPointError(nonfinite_report(self.spec, self.state.model, self.step - 1, data, last_batch, self.key))
        return metrics

    def _evaluate_if_due(self, *, is_last: bool) -> dict[str, np.ndarray]:
        """Evaluates the parameters, at most once at each step. Returns nothing if it did not."""
        plan = self.plan.evaluation
        if plan is None or self.last_evaluation == self.step or not (is_last or plan.is_due(self.step)):
            return {}
        params = self._params_to_evaluate(plan)
        metrics = {name: np.asarray(value) for name, value in _evaluate(params, evaluate=plan.evaluate).items()}
        self.history.add_evaluation(self.step, metrics)
        self.last_evaluation = self.step
        if plan.early_stopping is not None:
            self.best = self.best.updated(plan.early_stopping, metrics, self.step)
            if self.best.step == self.step:
                self.best_params = _copied(params)
        return metrics

    def _params_to_evaluate(self, plan: EvaluationPlan) -> Any:
        model = self.state.model
        if plan.eval_params is not None:
            return _eval_params(model.opt_state, model.params, eval_params=plan.eval_params)
        return model.params if model.average is None else model.average.params

    def _save_if_due(self, *, is_last: bool) -> None:
        """Starts to save a checkpoint, at most once at each step."""
        plan = self.plan.checkpoints
        if plan is not None and self.last_checkpoint != self.step and (is_last or plan.is_due(self.step)):
            self._save(plan)
            self.last_checkpoint = self.step

    def _save(self, plan: CheckpointPlan) -> None:
        """Starts to save a checkpoint in the first process, after the one before has been saved."""
        model = data_parallel.gather_to_host(self.state.model)
        if not self.writes_files:
            return
        self.saves.wait()
        # a copy, because the next execution reuses the memory of the state (it is donated)
        arrays = RunArrays(jax.tree.map(_on_host, model), self.best_params)
        record = RunRecord(self.best, self.last_evaluation, self.history.format(), self.position, self.initial_params)
        save = partial(save_run, plan, self.step, arrays, record, self.run_id, self.history.sync)
        self.saves.start(save)

    def _result(self, stop_reason: str | None) -> FitResult:
        model = self.state.model
        skipped = np.asarray(model.skipped_updates)
        return FitResult(
            params=model.params,
            opt_state=model.opt_state,
            history=self.history.metric_arrays(),
            evaluations=self.history.evaluation_arrays(),
            steps=self.step,
            skipped_updates=skipped if self.spec.is_ensemble else int(skipped),
            carry=model.carry,
            ema_params=None if model.average is None else model.average.params,
            best_params=self.best_params if self.best.step is not None else None,
            best_step=self.best.step,
            stop_reason=stop_reason,
        )


@partial(jax.jit, static_argnames=("evaluate",))
def _evaluate(params: Any, *, evaluate: Any) -> dict[str, jax.Array]:
    return evaluate(params)


@partial(jax.jit, static_argnames=("eval_params",))
def _eval_params(opt_state: Any, params: Any, *, eval_params: Any) -> Any:
    return eval_params(opt_state, params)


def _is_true(result: Any) -> bool:
    # a comparison of metrics gives a boolean of NumPy, and one of parameters a boolean of JAX
    is_scalar = isinstance(result, jax.Array) and result.shape == () and result.dtype == bool
    return (is_scalar or isinstance(result, bool | np.bool_)) and bool(result)


def _on_host(leaf: Any) -> np.ndarray:
    return np.array(jax.random.key_data(leaf) if is_random_key(leaf) else leaf)


def _copied(tree: Any) -> Any:
    # a copy, because the next execution reuses the memory of the state (it is donated)
    return jax.tree.map(partial(jnp.array, copy=True), tree)
