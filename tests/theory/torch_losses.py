"""Losses of torch tensors, with the signature of a trainer's: imported where PyTorch is."""

import torch
import torch.nn.functional as F


def dpo(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta: float = 0.1
):
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps
    return -F.logsigmoid(beta * (chosen - rejected))


def ipo_mean(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta: float = 0.1
):
    margin = policy_chosen_logps - policy_rejected_logps - reference_chosen_logps + reference_rejected_logps
    return ((margin - 1 / (2 * beta)) ** 2).mean(), margin.detach()


def reinforce(logp: torch.Tensor, ref_logp: torch.Tensor, reward: torch.Tensor, beta: float = 0.1) -> torch.Tensor:
    with torch.no_grad():
        advantage = reward - reward.mean(-1, keepdim=True)
    return -((advantage - beta * (logp - ref_logp).detach()) * logp).mean(-1)


def undetached(logp: torch.Tensor, ref_logp: torch.Tensor, reward: torch.Tensor) -> torch.Tensor:
    advantage = reward - reward.mean(-1, keepdim=True)
    return -((advantage - 0.1 * (logp - ref_logp)) * logp).mean(-1)


def k2_tokens(token_logp: torch.Tensor, ref_token_logp: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    keep = mask.bool()
    h = torch.where(keep, token_logp, 0.0) - torch.where(keep, ref_token_logp, 0.0)
    return 0.5 * h.square().sum(-1)


def overflowing(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
    margin = policy_chosen_logps - policy_rejected_logps - reference_chosen_logps + reference_rejected_logps
    return torch.log(1 + torch.exp(-0.1 * margin))


class _WrongSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, slope):
        return 3 * ctx.saved_tensors[0] * slope  # 2 x


class _NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * x

    @staticmethod
    def backward(ctx, slope):
        raise RuntimeError("there is no way back")


def no_way_back(logp: torch.Tensor, ref_logp: torch.Tensor) -> torch.Tensor:
    return _NoBackward.apply(logp[..., 0] - ref_logp[..., 0])


def wrong_gradient(logp: torch.Tensor, ref_logp: torch.Tensor) -> torch.Tensor:
    return _WrongSquare.apply(logp[..., 0] - ref_logp[..., 0])


def of_values(logp: torch.Tensor, ref_logp: torch.Tensor) -> torch.Tensor:
    """Control flow on values, which `torch.func.vmap` cannot map."""
    h = (logp - ref_logp)[..., 0] - (logp - ref_logp)[..., 1]
    return torch.stack([-F.logsigmoid(x) if x.item() < 50 else 0 * x for x in h])


def off_the_graph(logp: torch.Tensor, ref_logp: torch.Tensor) -> torch.Tensor:
    return torch.tensor((logp - ref_logp).detach().numpy()).sum(-1)


def raising(logp: torch.Tensor, ref_logp: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("the judge is asleep")


def wrong_shape(logp: torch.Tensor, ref_logp: torch.Tensor) -> torch.Tensor:
    return logp - ref_logp
