"""The types that describe a run before it starts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from gru_jax.train.batch_sources import BatchMaker, BatchSource
from gru_jax.train.early_stopping import EarlyStopping
from gru_jax.train.results import CallbackInfo

_FEW_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class ProgramSpec:
    """The static settings of the compiled program. Equal specs share one compiled program.

    Attributes:
        loss_fn: The user's loss.
        optimizer: An optax transformation. For an ensemble with hyperparameters, a function of them
            that returns a transformation.
        batch_makers: One for each bucket of the data.
        grad_accumulation_steps: The number of microbatches.
        weight_fn: The weight of a microbatch or shard in averages. None weights them equally.
        has_carry: Whether `loss_fn` takes and returns a carry.
        per_example_keys: Whether `loss_fn` receives a key for each example.
        max_consecutive_nonfinite: The number of consecutive skipped updates after which the program
            returns early. None never returns early.
        ema: An optax transformation that averages the parameters. None keeps no average.
        is_ensemble: Whether the state has a leading axis for several models.
        models_have_own_batches: Whether the batch indices have an axis for the models too.
        mesh: The mesh over which batches are spread. None for one device.
    """

    loss_fn: Callable[..., Any]
    optimizer: Any
    batch_makers: tuple[BatchMaker, ...]
    grad_accumulation_steps: int
    weight_fn: Callable[[Any], jax.Array] | None
    has_carry: bool = False
    per_example_keys: bool = False
    max_consecutive_nonfinite: int | None = None
    ema: Any = None
    is_ensemble: bool = False
    models_have_own_batches: bool = False
    mesh: Mesh | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """When parameters are evaluated, and whether the evaluations may stop the run.

    Attributes:
        evaluate: The user's `evaluate`, with a check of its result. For an ensemble, it evaluates
            all models at once. The same `evaluate` gives the same object, so that it is compiled
            only once.
        every: The number of steps between evaluations. None evaluates before the first and after
            the last step only.
        eval_params: A function `(opt_state, params) -> params` that gives the parameters to
            evaluate. None evaluates the average of `ema` if there is one, or else the parameters.
        early_stopping: The rule for keeping the best parameters. None does not keep them.
    """

    evaluate: Callable[[Any], dict[str, jax.Array]]
    every: int | None
    eval_params: Callable[[Any, Any], Any] | None = None
    early_stopping: EarlyStopping | None = None

    def is_due(self, step: int) -> bool:
        """Tells whether to evaluate after `step` steps. After the last step, it is always done."""
        return step == 0 if self.every is None else step % self.every == 0


@dataclass(frozen=True, kw_only=True)
class CheckpointPlan:
    """Where and when checkpoints are saved.

    Attributes:
        directory: The absolute path of the run's directory.
        save_every: The number of steps between checkpoints. None saves after the last step only.
        max_to_keep: The number of checkpoints to keep. Older ones are deleted.
        run_config: The configuration of the run. A resumed run must have an equal one.
        allow_changes: The names of what may differ from the configuration of a resumed run.
        resume: Whether to continue a run that the directory already contains. If False, such a run
            is an error.
    """

    directory: Path
    save_every: int | None
    max_to_keep: int
    run_config: dict[str, Any]
    allow_changes: frozenset[str]
    resume: bool

    def is_due(self, step: int) -> bool:
        """Tells whether to save after `step` steps. After the last step, it is always done."""
        return step > 0 and self.save_every is not None and step % self.save_every == 0


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Everything that `fit` or `fit_ensemble` was asked to do, except the initial parameters.

    Attributes:
        program: The static settings of the compiled program.
        source: The source of batches.
        key: The key of the run, or one per model of an ensemble.
        hyperparameters: For an ensemble, one value per model and name; otherwise empty.
        steps: The total number of optimiser steps.
        steps_per_execution: The maximum number of steps per execution of the compiled program.
        evaluation: When to evaluate. None evaluates nothing.
        checkpoints: Where and when to save checkpoints. None saves nothing.
        callbacks: The functions that are called after each execution.
        progress: Whether to show a progress bar.
    """

    program: ProgramSpec
    source: BatchSource
    key: jax.Array
    hyperparameters: dict[str, jax.Array]
    steps: int
    steps_per_execution: int
    evaluation: EvaluationPlan | None
    checkpoints: CheckpointPlan | None
    callbacks: tuple[Callable[[CallbackInfo], Any], ...]
    progress: bool

    @property
    def early_stopping(self) -> EarlyStopping | None:
        """The rule for keeping the best parameters, or None."""
        return None if self.evaluation is None else self.evaluation.early_stopping

    @property
    def indices_per_execution(self) -> int:
        """The number of steps that an execution has indices and metrics for.

        It is `steps_per_execution` unless that is large and no execution gets so long. A run and
        its resumes then share a program.
        """
        return min(self.steps_per_execution, max(self.longest_execution(), _FEW_STEPS))

    def longest_execution(self) -> int:
        """Returns the number of steps that no execution exceeds."""
        return min(filter(None, (self.steps, self.steps_per_execution, *self._periods())))

    def _periods(self) -> tuple[int | None, ...]:
        return (
            None if self.evaluation is None else self.evaluation.every,
            None if self.checkpoints is None else self.checkpoints.save_every,
        )

    def end_of_execution(self, step: int) -> int:
        """Returns the step at which an execution that starts at `step` must end."""
        ends = [self.steps, step + self.steps_per_execution]
        for every in self._periods():
            if every:
                ends.append(step - step % every + every)
        return min(ends)
