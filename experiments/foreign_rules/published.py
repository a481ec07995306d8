"""Rules in published packages. The extra `strangers` of gru_jax installs the packages."""

import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.foreign_rules.case import Case, numbers, positive
from gru_jax.verify.errors import short_message

PREFIX = "published: "  # of the names of these cases
X, P = numbers(4, 5), positive(6)


def _optax(optax):
    labels = np.array([1, 0, 4, 2], np.int32)
    return {
        "scale_gradient, not said": Case(lambda x: optax.scale_gradient(x, 0.5), (X,), "wrong"),
        "scale_gradient": Case(
            lambda x: optax.scale_gradient(x, 0.5), (X,), "intended", {"gradient": lambda args, u: (0.5 * u,)}
        ),
        "safe_norm": Case(lambda x: optax.safe_norm(x, 1e-8), (X[0],), "right"),
        "softmax_cross_entropy": Case(lambda x: optax.softmax_cross_entropy_with_integer_labels(x, labels), (X,), "right"),
        "projection on the simplex": Case(lambda x: optax.projections.projection_simplex(x), (3 * numbers(5),), "right"),
        "ctc_loss": Case(
            lambda x: optax.ctc_loss(x, jnp.zeros((2, 6)), jnp.array([[1, 2], [2, 0]]), jnp.array([[0, 0], [0, 1]])),
            (numbers(2, 6, 4),),
            "right",
            {"rtol": 1e-6},
            tolerance=1e-4,
        ),
    }


def _jaxopt(jaxopt):
    def ridge(penalty, y):
        design = jnp.asarray(numbers(6, 3), y.dtype)
        matvec = lambda v: design.T @ (design @ v) + penalty * v
        return jaxopt.linear_solve.solve_normal_cg(matvec, design.T @ y, tol=1e-12, maxiter=200)

    def minimum(target):
        loss = lambda v, target: ((v - jnp.tanh(target)) ** 2).sum() + 0.1 * (v**4).sum()
        solver = jaxopt.GradientDescent(loss, maxiter=2000, tol=1e-12, implicit_diff=True)
        return solver.run(jnp.zeros(4, target.dtype), target).params

    def root(x):
        return (
            jaxopt.Bisection(lambda y, x: y**3 + y - x, -9.0, 9.0, tol=1e-13, maxiter=80, check_bracket=False)
            .run(None, x)
            .params
        )

    def fixed_point(x):
        solver = jaxopt.FixedPointIteration(lambda y, x: jnp.tanh(0.5 * y + x), maxiter=300, tol=1e-13, implicit_diff=True)
        return solver.run(jnp.zeros_like(x), x).params

    project = jaxopt.projection
    return {
        "ridge by conjugate gradients": Case(ridge, (np.float32(0.7), numbers(6, seed=2)), "right", {"rtol": 1e-4}, tolerance=1e-4),
        "minimum by gradient descent": Case(minimum, (numbers(4),), "right", {"rtol": 1e-4}, tolerance=1e-4),
        "root by bisection": Case(root, (np.float32(1.3),), "right", {"rtol": 1e-5}, tolerance=1e-4),
        "fixed point": Case(fixed_point, (numbers(4),), "right", {"rtol": 1e-4}, tolerance=1e-4),
        "projection on the simplex": Case(lambda x: project.projection_simplex(x), (numbers(5),), "right"),
        "projection on the L2 ball": Case(lambda x: project.projection_l2_ball(x, 1.0), (numbers(5),), "right"),
        "projection on the L1 ball": Case(lambda x: project.projection_l1_ball(x, 1.0), (3 * numbers(5),), "right"),
        "soft threshold": Case(lambda x: jaxopt.prox.prox_lasso(x, 0.5), (X,), "right"),
    }  # fmt: skip


def _lineax(lx):
    def solve(solver):
        return lambda a, b: lx.linear_solve(lx.MatrixLinearOperator(a), b, solver()).value

    square = numbers(4, 4) + 3 * np.eye(4, dtype=np.float32)
    return {
        "LU": Case(solve(lx.LU), (square, numbers(4)), "right"),
        "QR": Case(solve(lx.QR), (numbers(6, 3), numbers(6)), "right"),
        "SVD": Case(solve(lx.SVD), (numbers(6, 3), numbers(6)), "right"),
        "AutoLinearSolver": Case(solve(lambda: lx.AutoLinearSolver(well_posed=True)), (square, numbers(4)), "right"),
    }


def _diffrax(dfx):
    def solve(adjoint):
        def run(y0, rate):
            term = dfx.ODETerm(lambda t, y, rate: -rate * y + jnp.sin(t))
            solution = dfx.diffeqsolve(term, dfx.Tsit5(), 0.0, 1.0, 0.05, y0, args=rate, adjoint=adjoint())
            return solution.ys

        return run

    args = (numbers(3), np.float32(0.7))
    return {
        "RecursiveCheckpointAdjoint": Case(solve(dfx.RecursiveCheckpointAdjoint), args, "right"),
        "BacksolveAdjoint": Case(solve(dfx.BacksolveAdjoint), args, "right", {"rtol": 1e-4}, tolerance=1e-4),
    }


def _optimistix(optx):
    def root(x):
        tolerance = 16 * float(jnp.finfo(x.dtype).eps)
        solver = optx.Newton(rtol=tolerance, atol=tolerance)
        return optx.root_find(lambda y, x: y**3 + y - x, solver, jnp.zeros_like(x), args=x).value

    def fixed(x):
        tolerance = 16 * float(jnp.finfo(x.dtype).eps)
        solver = optx.FixedPointIteration(rtol=tolerance, atol=tolerance)
        return optx.fixed_point(lambda y, x: jnp.tanh(0.5 * y + x), solver, jnp.zeros_like(x), args=x).value

    return {
        "root_find": Case(root, (numbers(4),), "right", {"rtol": 1e-6}),
        "fixed_point": Case(fixed, (numbers(4),), "right", {"rtol": 1e-6}),
    }


def _ott(ott):
    from ott.geometry import pointcloud
    from ott.solvers import linear

    def distance(x, y):
        geometry = pointcloud.PointCloud(x, y, epsilon=0.5)
        return linear.solve(geometry, threshold=1e-9, max_iterations=2000).reg_ot_cost

    from ott.math import utils

    return {
        "regularised transport": Case(distance, (numbers(4, 2), numbers(3, 2, seed=1)), "right", {"rtol": 1e-3}, tolerance=1e-3),
        "norm": Case(lambda x: utils.norm(x, axis=-1), (X,), "right"),
        "logsumexp": Case(lambda x: utils.logsumexp(x, axis=-1), (X,), "right"),
    }  # fmt: skip


def _numpyro(numpyro):
    import numpyro.distributions as dist

    doubly = lambda a, low, high, x: dist.DoublyTruncatedPowerLaw(a, low, high).log_prob(x)
    return {
        "DoublyTruncatedPowerLaw.log_prob": Case(
            doubly, (np.float32(1.7), np.float32(0.5), np.float32(3.0), 0.6 + positive(5)), "wrong"
        ),
        "LowerTruncatedPowerLaw.log_prob": Case(
            lambda a, low, x: dist.LowerTruncatedPowerLaw(a, low).log_prob(x), (np.float32(-2.5), np.float32(0.2), positive(5)), "right"
        ),
        "Beta.log_prob": Case(lambda a, b, x: dist.Beta(a, b).log_prob(x), (P, positive(6, seed=1), positive(6, seed=2) / 2.5), "right"),
        "Gamma.log_prob": Case(lambda a, b, x: dist.Gamma(a, b).log_prob(x), (P, positive(6, seed=1), positive(6, seed=2)), "right"),
        "StudentT.log_prob": Case(lambda df, x: dist.StudentT(df).log_prob(x), (P + 1, numbers(6)), "right"),
        "Normal.cdf": Case(lambda m, s, x: dist.Normal(m, s).cdf(x), (numbers(6), P, numbers(6, seed=1)), "right"),
    }  # fmt: skip


def _distrax(distrax):
    return {
        "Normal.log_prob": Case(lambda m, s, x: distrax.Normal(m, s).log_prob(x), (numbers(6), P, numbers(6, seed=1)), "right"),
        "Gumbel samples": Case(lambda m, s, key: distrax.Gumbel(m, s).sample(seed=key), (numbers(6), P, jax.random.key(0)), "right"),
        "rational quadratic spline": Case(
            lambda params, x: distrax.RationalQuadraticSpline(params, -2.0, 2.0).forward(x),
            (numbers(13), numbers(5, seed=1)),
            "right",
        ),
    }  # fmt: skip


def _rlax(rlax):
    return {
        "clip_gradient": Case(
            lambda x: rlax.clip_gradient(x, -0.5, 0.5), (X,), "intended", {"gradient": lambda args, u: (jnp.clip(u, -0.5, 0.5),)}
        ),
        "clip_gradient, not said": Case(lambda x: rlax.clip_gradient(x, -0.5, 0.5), (X,), "wrong"),
        "huber_loss": Case(lambda x: rlax.huber_loss(x, 1.0), (2 * X,), "right"),
        "lambda_returns": Case(
            lambda r, d, v: rlax.lambda_returns(r, d, v, 0.9), (numbers(5), positive(5) / 2, numbers(5, seed=1)), "right"
        ),
    }  # fmt: skip


def _tfp(_):
    from tensorflow_probability.substrates import jax as tfp

    math = tfp.math
    import mpmath

    return {
        "betainc": Case(
            lambda a, b, x: math.betainc(a, b, x), (P, positive(6, seed=1), positive(6, seed=2) / 2.5), "right", tolerance=1e-4
        ),
        "log1mexp": Case(lambda x: math.log1mexp(x), (P,), "right"),
        "lbeta": Case(lambda a, b: math.lbeta(a, b), (P, positive(6, seed=1)), "right"),
        "erfcinv": Case(lambda x: math.erfcinv(x), (P / 1.5,), "right"),
        "lambertw": Case(
            lambda x: math.lambertw(x),
            (P,),
            "right",
            exact=lambda x: [np.array([float((w := mpmath.lambertw(v).real) / (v * (1 + w))) for v in x])],
        ),
        "log_bessel_kve": Case(lambda x: math.log_bessel_kve(1.5, x), (P,), "right", tolerance=1e-4),
        "owens_t": Case(lambda h, a: math.owens_t(h, a), (P, positive(6, seed=1)), "right"),
        "log_sub_exp": Case(lambda x, y: math.log_sub_exp(x, y), (P + 2.5, positive(6, seed=1)), "right"),
    }


def _e3nn(e3nn):
    return {
        "spherical harmonics": Case(
            lambda x: e3nn.spherical_harmonics("2e", x, normalize=True).array, (numbers(5, 3),), "right"
        ),
        "normalised activation": Case(lambda x: e3nn.soft_odd(x), (X,), "right"),
    }


def _flax(_):
    from flax.linen import fp8_ops

    def quantised(x):
        return fp8_ops.in_qdq(jnp.float32, jnp.float8_e4m3fn, x, jnp.ones(1), jnp.zeros(16))

    # Autodiff of a cast is the identity too, so there is no case without the option.
    return {"fp8 quantisation": Case(quantised, (X,), "intended", {"gradient": lambda args, u: (u,)})}


def _jax_md(_):
    from jax_md import space, util

    displacement, _shift = space.periodic(2.5)
    return {
        "periodic distance": Case(
            lambda a, b: jax.vmap(lambda a, b: space.distance(displacement(a, b)))(a, b), (numbers(4, 3), numbers(4, 3, seed=1)), "no rule"
        ),
        "safe_mask": Case(lambda x: util.safe_mask(x > 0, jnp.sqrt, x), (X,), "right"),
    }  # fmt: skip


_PACKAGES: dict[str, tuple[str, Callable]] = {
    "optax": ("optax", _optax),
    "jaxopt": ("jaxopt", _jaxopt),
    "lineax": ("lineax", _lineax),
    "diffrax": ("diffrax", _diffrax),
    "optimistix": ("optimistix", _optimistix),
    "ott-jax": ("ott", _ott),
    "numpyro": ("numpyro", _numpyro),
    "distrax": ("distrax", _distrax),
    "rlax": ("rlax", _rlax),
    "tensorflow-probability": ("tensorflow_probability.substrates.jax", _tfp),
    "e3nn-jax": ("e3nn_jax", _e3nn),
    "flax": ("flax.linen", _flax),
    "jax-md": ("jax_md", _jax_md),
}


def collect() -> tuple[dict[str, Case], dict[str, str]]:
    """Imports the packages. Returns the cases by name, and the error of each failed import."""
    found: dict[str, Case] = {}
    missing: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found |= _cases_of(package)
        except Exception as error:  # a package may fail to import beside this JAX in any way
            missing[package] = short_message(error)
    return found, missing


def find(name: str) -> Case:
    """Returns a case by its name. Imports only the package that it is about."""
    return _cases_of(name.removeprefix(PREFIX).split(", ")[0])[name]


def _cases_of(package: str) -> dict[str, Case]:
    module, make = _PACKAGES[package]
    return {f"{PREFIX}{package}, {name}": case for name, case in make(importlib.import_module(module)).items()}
