"""What the record of a method promises, asserted by the audit; a new method is covered by being listed."""

import dataclasses
import inspect

import jax.numpy as jnp
import pytest

import alignjax as aj
from alignjax.equations import sg
from alignjax.registry import METHODS
from theory import properties
from theory.auditing.subject import AuditError

QUICK = 0.2
"""Of the audit's examples: enough for the broken copies below, and a fifth of the time."""


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_meets_what_its_record_declares(name: str) -> None:
    properties.check_declared(METHODS[name], share=QUICK)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_meets_it_on_every_example(name: str) -> None:
    properties.check_declared(METHODS[name])


def test_what_a_record_says_is_what_is_asked() -> None:
    everywhere = {"gradient_finite": "holds", "batch_separable": "holds"}
    for method in METHODS.values():
        assert everywhere.items() <= properties.declared(method).items()
    order, shift = {"permutation_equivariant": "holds"}, {"shift_invariant": "holds"}
    assert properties.declared(METHODS["rloo"]) == everywhere | order | shift
    assert properties.declared(METHODS["reinforce"]) == everywhere | order
    assert properties.declared(METHODS["dpo"]) == everywhere | order | shift
    assert properties.declared(METHODS["slic"]) == everywhere | order
    assert properties.declared(METHODS["grpo"])["scale_equivariant"] == "invariant"
    assert properties.declared(METHODS["nash_md_pg_token"])["masked_tokens_inert"] == "holds"
    assert properties.declared(METHODS["p3o_token"])["shift_invariant"] == "holds"
    assert properties.declared(METHODS["pama"]) == everywhere | order | shift
    assert properties.declared(METHODS["bond"]) == everywhere


def with_loss(name: str, change, **record) -> aj.record.Method:
    """A copy of a method whose loss is the changed one."""
    method = METHODS[name]

    def loss(*args, **kwargs):
        return change(method.loss, *args, **kwargs)

    loss.__signature__ = inspect.signature(method.loss)  # type: ignore[attr-defined]
    return dataclasses.replace(method, loss=loss, name=name, **record)


def no_baseline(loss, **given):
    return loss(**given) - 0.1 * (sg(given["reward"]) * given["logp"]).mean(-1)


def tenth(loss, **given):
    return loss(**given) * (1 + 0.1 * given["logp"].mean())  # over the batch as well


def first_is_special(loss, **given):
    return loss(**given) + 0.1 * given["logp"][..., 0]


def masked_count(loss, **given):
    return loss(**given) + 0.1 * jnp.sum(given["token_logp"], (-1, -2))


def bare(loss, **given):
    return loss(**given) - 0.1 * given["logp"][..., 0] ** 2


def root(loss, **given):
    return loss(**given) + jnp.sqrt(given["logp"] - given["ref_logp"]).sum(-1)


def own_reward(loss, **given):
    return loss(**given) - 0.1 * sg(given["reward"][..., 0]) * given["logp"][..., 0]


def own_rewards(loss, **given):
    return loss(**given) - 0.1 * sg(given["rewards"][..., 0, 1]) * given["logp"][..., 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "broken"),
    [
        ("rloo", no_baseline, "shift_invariant"),
        ("grpo", no_baseline, "scale_equivariant"),
        ("rloo", tenth, "batch_separable"),
        ("reinforce", first_is_special, "permutation_equivariant"),
        ("nash_md_pg_token", masked_count, "masked_tokens_inert"),
        ("dpo", bare, "shift_invariant"),
        ("dpo", root, "gradient_finite"),
        ("p3o", own_reward, "shift_invariant"),
        ("pama", own_rewards, "shift_invariant"),
        ("p3o_token", masked_count, "masked_tokens_inert"),
        ("dro", tenth, "batch_separable"),
        ("egpo", bare, "shift_invariant"),
    ],
)
def test_a_broken_copy_is_caught(name: str, change, broken: str) -> None:
    with pytest.raises(AssertionError, match=rf"(?m)^{broken} "):
        properties.check_declared(with_loss(name, change), share=QUICK)


@pytest.mark.slow
def test_a_false_declaration_is_caught() -> None:
    false = dataclasses.replace(METHODS["reinforce"], invariant_to=("reward_shift", "relabelling"))
    with pytest.raises(AssertionError, match=r"(?m)^shift_invariant "):
        properties.check_declared(false, share=QUICK)


def test_a_method_that_reads_what_the_audit_lacks_says_so() -> None:
    def loss(logp, behaviour_token_logp):
        """The old policy, token by token."""
        return (logp * behaviour_token_logp.sum(-1)).mean(-1)

    method = dataclasses.replace(METHODS["reinforce"], loss=loss, name="old_tokens")
    missing = r"old_tokens reads behaviour_token_logp, for which the audit has no arrays \(group\)"
    with pytest.raises(AuditError, match=missing):
        properties.check_declared(method)
