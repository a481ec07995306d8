"""Trains any JAX model with optax: compiled loops, checkpoints that survive crashes, exact resumes.

The package does not depend on the recurrent cells: a model is any `loss_fn` and its parameters.

Its modules, from the outside in:

    fit, ensemble           the public functions `fit` and `fit_ensemble`
    make_plan, arguments    check the arguments, and describe the run as a `TrainingPlan`
    plans                   the types that describe a run before it starts
    results                 the types that users receive: `FitResult` and `CallbackInfo`
    host_loop               what happens on the host between executions of the compiled program
    train_step, gradients   the compiled program: a loop of optimiser steps
    user_functions          calls the user's loss, and checks what it returns
    batch_sources           which examples each step uses; `epoch_order` shuffles them
    make_source             chooses the batch source of the argument `data`
    batch_streams           batches of an iterable, and its position
    feeds                   gives each execution its data; streams are prefetched in a thread
    batches, finite, own_checkpoints
                            pieces for custom training loops
    bucketed, windows       sequences of different lengths, and windows over long sequences;
                            `sequence_arrays` checks them
    run_directory           saves and restores a run; `run_config` refuses to resume a different one
    function_description    what can be known of the user's functions, to compare them
    background_saves        saves in a thread while training continues
    params_files            saves and loads parameters alone
    checkpoint              checkpoints: atomic writes and verified reads
    manifest, array_store   the files of a checkpoint, and what they are compared with
    history                 losses, metrics and evaluations, in memory and as a file
    history_file            its lines, with checksums
    regular_files           opens files without following links
    tree_paths, json_values name the leaves of pytrees, and convert values to JSON
    progress_bar            shows the loss, the best evaluation and the time left
    early_stopping          keeps the best parameters
    signals                 lets a run save and exit on SIGTERM and SIGINT
    nonfinite_report        the error message for too many updates with NaN or infinity
    data_parallel           spreads batches over devices and processes
"""

from gru_jax.train.batches import batches as batches
from gru_jax.train.bucketed import BucketedSource as BucketedSource
from gru_jax.train.bucketed import PaddedBatch as PaddedBatch
from gru_jax.train.bucketed import bucketed as bucketed
from gru_jax.train.data_parallel import data_mesh as data_mesh
from gru_jax.train.early_stopping import EarlyStopping as EarlyStopping
from gru_jax.train.ensemble import fit_ensemble as fit_ensemble
from gru_jax.train.finite import all_finite as all_finite
from gru_jax.train.fit import fit as fit
from gru_jax.train.own_checkpoints import RestoredCheckpoint as RestoredCheckpoint
from gru_jax.train.own_checkpoints import restore_checkpoint as restore_checkpoint
from gru_jax.train.own_checkpoints import save_checkpoint as save_checkpoint
from gru_jax.train.params_files import load_params as load_params
from gru_jax.train.params_files import save_params as save_params
from gru_jax.train.results import CallbackInfo as CallbackInfo
from gru_jax.train.results import FitResult as FitResult
from gru_jax.train.windows import WindowBatch as WindowBatch
from gru_jax.train.windows import WindowSource as WindowSource
from gru_jax.train.windows import windows as windows
