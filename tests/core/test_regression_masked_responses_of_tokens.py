"""Responses hidden by the response mask may hold NaN in their tokens too."""

import jax.numpy as jnp
import numpy as np

import alignjax as aj


def test_masked_responses_of_tokens():
    tokens = np.log(np.full((1, 3, 2), 0.5))
    tokens[0, 2] = np.nan
    fields = {"token_logp": tokens, "ref_token_logp": tokens, "logp": tokens.sum(-1), "win_rate": [[0.2, 0.7, np.nan]]}
    masked = aj.Samples(**fields, response_mask=np.array([[1, 1, 0]]))
    kept = aj.Samples(**{n: np.asarray(x)[:, :2] for n, x in fields.items()})
    np.testing.assert_allclose(aj.methods["nash_md_pg_token"](masked), aj.methods["nash_md_pg_token"](kept), rtol=1e-6)
    assert jnp.isfinite(aj.methods["nash_md_pg_token"](masked)).all()
