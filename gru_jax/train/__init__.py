"""Trains any JAX model with optax: compiled loops of many steps, checkpoints that survive crashes,
and exact resumption.

The package knows no cell. Its modules, from the outside in:

    fit, ensemble                the public functions: they check their arguments and describe the
        run as a `TrainingPlan`
    arguments, plans             checks of arguments, and the types that describe a run host_loop
    what happens on the host between two executions of the compiled program train_step, gradients
    the compiled program: a loop of optimiser steps, and the gradient
        of one batch
    batch_sources, epoch_order   which examples each step sees bucketed, windows            batches
    of sequences of different lengths, and windows over long sequences run_directory, run_config
    what a run saves, and how a resumed run is recognised checkpoint                   checkpoint
    files: atomic writes and verified reads history                      losses, metrics and
    evaluations, in memory and as a file early_stopping, signals, nonfinite_report   the reasons to
    end a run early data_parallel                batches spread over devices and processes
"""

from gru_jax.train.bucketed import BucketedSource as BucketedSource
from gru_jax.train.bucketed import PaddedBatch as PaddedBatch
from gru_jax.train.bucketed import bucketed as bucketed
from gru_jax.train.data_parallel import data_mesh as data_mesh
from gru_jax.train.early_stopping import EarlyStopping as EarlyStopping
from gru_jax.train.ensemble import fit_ensemble as fit_ensemble
from gru_jax.train.fit import fit as fit
from gru_jax.train.results import CallbackInfo as CallbackInfo
from gru_jax.train.results import FitResult as FitResult
from gru_jax.train.run_directory import load_params as load_params
from gru_jax.train.windows import WindowBatch as WindowBatch
from gru_jax.train.windows import WindowSource as WindowSource
from gru_jax.train.windows import windows as windows
