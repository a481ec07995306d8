"""Faults in the heads, the analysis of gradient flow, the plots and the verifier."""

# fmt: off
FAULTS = {
    "heads/losses.py": [
        ("the squared error is a mean over the features",
         "masked(optax.squared_error(predictions, targets).sum(-1), mask)",
         "masked(optax.squared_error(predictions, targets).mean(-1), mask)", "test_heads"),
        ("a class index one too large is in range",
         "(labels < logits.shape[-1])", "(labels <= logits.shape[-1])", "test_heads"),
        ("logits of masked steps reach the gradient",
         "logits, labels = jnp.where(mask[..., None], logits, 0), jnp.where(mask, labels, 0)",
         "labels = jnp.where(mask, labels, 0)", "test_heads"),
        ("targets may have any shape",
         "if predictions.shape != targets.shape:", "if predictions.ndim < targets.ndim:", "test_heads"),
    ],
    "heads/reductions.py": [
        ("the mean over no step is NaN",
         "/ jnp.maximum(steps, 1)", "/ steps", "test_heads"),
        ("the last step is that of the array",
         "jnp.where(mask, step, -1)", "step", "test_heads"),
    ],
    "heads/precision.py": [
        ("losses of half precision stay in it",
         "at_least_float32(x.dtype) if is_inexact", "x.dtype if is_inexact", "test_heads"),
    ],
    "heads/read_out.py": [
        ("the read-out ignores its bias",
         "y_pre = y_pre + jnp.expand_dims(params.b_y, tuple(range(y_pre.ndim - 1))).astype(y_pre.dtype)", "pass", "test_heads"),
    ],
    "flow/linearized.py": [
        ("the terms are linearised around states before resets",
         "apply_resets(flags, reset_state, previous_states(h0, hs, reverse=False))", "previous_states(h0, hs, reverse=False)",
         "test_flow"),
    ],
    "flow/cotangents.py": [
        ("a loss does not reach steps before its own",
         "jnp.where(j <= t, bar, 0), passed_on)", "jnp.where(j < t, bar, 0), passed_on)", "test_flow"),
        ("padding has cotangents of its outputs",
         "ys_bar = zero_masked(trajectory.flags, jax.vmap(",
         "ys_bar = (lambda flags, bars: bars)(trajectory.flags, jax.vmap(", "test_flow"),
    ],
    "flow/stability.py": [
        ("Lyapunov exponents take the Jacobians in the wrong orientation",
         "jnp.linalg.qr(J.mT @ Q)", "jnp.linalg.qr(J @ Q)", "test_flow"),
        ("Jacobians of masked steps are those of a step",
         "jax.tree.leaves(tree_where(flags.mask, stepped, h_dot))", "jax.tree.leaves(stepped)", "test_flow"),
    ],
    "flow/norms.py": [
        ("norms of large values overflow",
         "(largest > 0) & jnp.isfinite(largest), largest, 1)", "(largest > 0) & jnp.isfinite(largest), 1, 1)", "test_flow"),
    ],
    "plot.py": [
        ("the decay of a gradient is drawn forwards in time",
         "values[-1][::-1]", "values[-1]", "test_plot"),
    ],
    "verify/comparison.py": [
        ("NaN in the gradient passes",
         "(np.isnan(got) & np.isnan(expected))", "(np.isnan(got) | np.isnan(expected))", "verify/test_checks"),
        ("errors of other results are not relative to the scale of their leaf",
         "np.fmax(rtol * scale, absolute)", "np.fmax(rtol, absolute)", "verify/test_verdicts"),
        ("entries that are NaN on both sides are evidence",
         "return np.isfinite(got) | np.isfinite(expected)", "return np.isfinite(got) | True", "verify/test_verdicts"),
    ],
    "verify/budget.py": [
        ("a compilation starts with less time left than the last one took",
         "began + clock.longest_compilation > clock.deadline", "began > clock.deadline", "verify/test_verdicts"),
    ],
    "verify/own_rounding.py": [
        ("the rounding of a rule in half precision is not measured",
         "if not wrong or tolerances.eps <=", "if wrong or not wrong or tolerances.eps <=", "verify/test_verdicts"),
    ],
    "verify/programs.py": [
        ("a rule that cannot be traced raises",
         'return Program(function, "")', "raise", "verify/test_verdicts"),
    ],
    "verify/judgement.py": [
        ("a gradient that is zero up to rounding is its own scale",
         "max(*leaf_scales(expected), *leaf_scales(typical))", "max(leaf_scales(expected))", "verify/test_verdicts"),
        ("errors are not relative to the scale of their leaf",
         "tolerances[k] * scales[k]", "tolerances[k]", "verify/test_verdicts"),
        ("noise as large as the gradient excuses an entry",
         "np.where(says_nothing, 0.0, own)", "own", "verify/test_verdicts"),
        ("at a kink, the reference decides",
         "if inside(got):", "if inside(got) and not derivative.has_kink:", "verify/test_verdicts"),
        ("an unreliable reference decides",
         'return "right" if inside(expected) else "contradicted"', 'return "right" if inside(expected) else "wrong"',
         "verify/test_verdicts"),
    ],
    "verify/report.py": [
        ("leaves without evidence count as right",
         "if self.unchecked or self.missing:", "if self.missing:", "verify/test_verdicts"),
    ],
    "verify/tolerances.py": [
        ("a sum inside a loop counts once",
         'times = repeated * (equation.params["length"] if equation.primitive.name == "scan" else 1)', "times = repeated",
         "verify/test_tolerances"),
    ],
    "verify/likely_causes.py": [
        ("a right sign is called wrong",
         "if abs(ratio + 1) < CLOSE:", "if abs(ratio - 1) < CLOSE:", "verify/test_checks"),
    ],
    "verify/reference.py": [
        ("the custom VJPs of JAX's own functions are kept in the reference",
         'if kind == "custom_jvp" and is_jax_own and', "if is_jax_own and", "verify/test_functions"),
    ],
    "verify/api.py": [
        ("a failed check passes assert_vjp",
         "if not report.ok:", "if report.ok is None:", "verify/test_checks"),
    ],
    "verify/__main__.py": [
        ("a failing case has exit status 0",
         "return 0 if report.ok else 1", "return 0", "verify/test_command_line"),
    ],
    "verify/checks/coverage.py": [
        ("planted faults are only searched for in leaves without influence",
         "if fault.leaf in undetectable or all(", "if fault.leaf not in undetectable or all(", "verify/test_checks"),
    ],
    "verify/checks/edges.py": [
        ("wrong gradients pass at the edges",
         "found += judgement.wrong", "found += judgement.wrong[:0]", "verify/test_checks"),
        ("inputs outside the domain are checked",
         "if not all(np.isfinite(y).all() for y in rule.outputs) or not edge.is_finite or is_singular:",
         "if not edge.is_finite or is_singular:",
         "verify/test_verdicts"),
    ],
}
