"""chi^2 has a gradient."""

import jax
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import alignjax as aj

pytestmark = pytest.mark.usefixtures("x64")


def test_gradient_of_chi_square():
    # sum (p - q)^2 / q = sum p^2 / q - 1, whose gradient in the logits of p is 2 p (u - E_p u), u = p / q.
    logits, logq = np.array([0.2, -0.4, 1.0]), log_softmax([0.0, 0.5, 0.1])
    p = softmax(logits)
    u = p / np.exp(logq)
    gradient = jax.grad(lambda z: aj.chi_square(jax.nn.log_softmax(z), logq))(logits)
    np.testing.assert_allclose(gradient, 2 * p * (u - p @ u), atol=1e-12)
