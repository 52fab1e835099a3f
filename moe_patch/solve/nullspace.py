"""The directions that an expert's preserved keys use, and the projection that removes them from new keys.

P_j = I - U_j U_j^T, where the columns of U_j are eigenvectors of expert j's mean second moment E[k k^T]. One
of two rules says which eigenvectors count as used:

* `energy`, the default: the fewest eigenvectors that hold this share of the trace. This does not depend on
  the model's scale.
* `tau`, the rule of AlphaEdit (arXiv 2410.02355) and MoEEdit, both at 0.02: those with an eigenvalue above
  tau, which is in the square of the keys' unit. The moment is the mean over the tokens that reached the
  expert, not the sum and not the covariance: keys are neither centred nor weighted by their gates. So the
  effect of one tau depends on the scale.

Only U_j is stored. A projector would be d_k x d_k for every expert, however few directions are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from moe_patch.errors import ConfigError, StatisticsError
from moe_patch.patch.rows import Rows
from moe_patch.solve.moments import Moments

Unseen = Literal["protect", "edit", "error"]
Rule = Literal["tau", "energy"]

DEFAULT_ENERGY = 0.9
DEFAULT_MIN_TOKENS = 64


@dataclass(frozen=True, slots=True, eq=False)
class NullSpace:
    """The used directions of one layer's experts, and the experts that too few tokens reached."""

    layer: int
    basis: dict[int, Tensor]  # expert -> U_j (d_k, r_j) fp64, orthonormal columns
    tokens: Tensor  # (E,) int64: how many tokens reached each expert
    unseen: tuple[int, ...]  # experts with fewer than `min_tokens` tokens
    rule: str  # "tau 0.02" or the like, for reports

    def project(self, expert: int, keys: Tensor) -> Tensor:
        """P_j k for keys (n, d_k) of one expert; computed in fp64, returned in the keys' dtype."""
        basis = self.basis[expert].to(keys.device)  # (d_k, r_j)
        wide = keys.double()
        return (wide - (wide @ basis) @ basis.T).to(keys.dtype)

    def project_rows(self, rows: Rows) -> Rows:
        """The rows g P_j k, from the rows g k."""
        value = torch.empty_like(rows.value)  # (nnz, d_k)
        for expert, block in rows.blocks():
            value[block] = self.project(expert, rows.value[block])
        return Rows(value, rows.expert, rows.fact, rows.num_facts)

    @property
    def ranks(self) -> dict[int, int]:
        """How many directions each expert uses; d_k if it is fully protected."""
        return {expert: basis.shape[1] for expert, basis in self.basis.items()}

    @property
    def protected(self) -> float:
        """The share of directions that is protected: the experts' mean, weighted by their tokens."""
        width = len(next(iter(self.basis.values())))
        ranks = torch.tensor([self.ranks[expert] for expert in range(len(self.tokens))]).double()
        weights = self.tokens.double() if bool(self.tokens.any()) else torch.ones(len(ranks)).double()
        return float((ranks * weights).sum() / (width * weights.sum()))

    def summary(self) -> dict[str, Any]:
        """This layer's figures for a report, as JSON values."""
        ranks, width = sorted(self.ranks.values()), next(iter(self.basis.values())).shape[0]
        return {
            "layer": self.layer,
            "rule": self.rule,
            "width": width,
            "protected": round(self.protected, 4),
            "rank_median": ranks[len(ranks) // 2],
            "rank_min": ranks[0],
            "rank_max": ranks[-1],
            "tokens_min": int(self.tokens.min()),
            "unseen": list(self.unseen),
        }


def null_space(
    moments: Moments,
    *,
    tau: float | None = None,
    energy: float | None = None,
    unseen: Unseen = "protect",
    min_tokens: int = DEFAULT_MIN_TOKENS,
) -> NullSpace:
    """The used directions of every expert of one layer.

    Args:
        moments: second moments of the layer's keys over preserved text.
        tau: absolute threshold on the eigenvalues of the mean second moment.
        energy: share of the trace to hold, above 0 and at most 1; 0.9 if neither rule is given.
        unseen: what to do with experts that fewer than `min_tokens` tokens reached. "protect" gives them
            the identity as basis, so that they get no edit. "edit" gives them an empty basis, so that they
            are edited without protection. "error" raises.
        min_tokens: an expert with fewer tokens counts as unseen.

    Raises:
        ConfigError: both rules are given, or a value is out of range.
        StatisticsError: an expert is unseen under "error", or its moment has no eigendecomposition.
    """
    rule, level = _rule(tau, energy)
    rare = _rare(moments, unseen, min_tokens)
    for_rare = _for_rare(moments, unseen)  # (d_k, d_k) or (d_k, 0)
    basis = {
        expert: for_rare if expert in rare else _used_directions(moments, expert, rule, level)
        for expert in range(len(moments.tokens))
    }
    return NullSpace(moments.layer, basis, moments.tokens, tuple(rare), f"{rule} {level:g}")


def unprojected(
    moments: Moments, *, unseen: Unseen = "protect", min_tokens: int = DEFAULT_MIN_TOKENS
) -> NullSpace:
    """No directions of experts that text reached; the others as in `null_space`.

    Raises:
        ConfigError: a value is out of range.
        StatisticsError: an expert is unseen under "error".
    """
    rare = _rare(moments, unseen, min_tokens)
    for_rare, none = _for_rare(moments, unseen), _for_rare(moments, "edit")
    basis = {expert: for_rare if expert in rare else none for expert in range(len(moments.tokens))}
    return NullSpace(moments.layer, basis, moments.tokens, tuple(rare), "none")


def shared_null_space(
    moments: Moments,
    *,
    tau: float | None = None,
    energy: float | None = None,
    unseen: Unseen = "protect",
    min_tokens: int = DEFAULT_MIN_TOKENS,
) -> NullSpace:
    """One set of used directions for all experts of a layer: those of all their keys together.

    Arguments and errors as for `null_space`; `unseen` and `min_tokens` are asked of the layer as a whole.
    """
    pooled = Moments(moments.layer, moments.second.sum(0, keepdim=True), moments.tokens.sum()[None])
    found = null_space(pooled, tau=tau, energy=energy, unseen=unseen, min_tokens=min_tokens)
    experts = range(len(moments.tokens))
    return NullSpace(
        moments.layer,
        dict.fromkeys(experts, found.basis[0]),
        moments.tokens,
        tuple(experts) if found.unseen else (),
        f"{found.rule}, one for all experts",
    )


def _rare(moments: Moments, unseen: Unseen, min_tokens: int) -> list[int]:
    """The experts that count as unseen, after a check of the choice."""
    if unseen not in get_args(Unseen):
        raise ConfigError(f"unseen is {unseen!r}: expected one of {', '.join(get_args(Unseen))}")
    if min_tokens < 1:
        raise ConfigError(f"min_tokens is {min_tokens}: expected at least 1")
    rare = [expert for expert, tokens in enumerate(moments.tokens.tolist()) if tokens < min_tokens]
    if rare and unseen == "error":
        listed = ", ".join(f"{expert} ({int(moments.tokens[expert])})" for expert in rare)
        raise StatisticsError(
            f"layer {moments.layer}: fewer than {min_tokens} tokens reached experts {listed}: give more "
            "preserved text, or set unseen to protect or edit"
        )
    return rare


def _for_rare(moments: Moments, unseen: Unseen) -> Tensor:
    """The directions that an unseen expert is taken to use: all (d_k, d_k), or none (d_k, 0)."""
    width = moments.second.shape[-1]
    return torch.eye(width, width if unseen == "protect" else 0, dtype=torch.float64)


def captured_energy(seen: Moments, fresh: Moments, expert: int, energy: float) -> float:
    """The share of the energy of one text's keys that the directions found in another text hold.

    With enough text it is `energy`, since the directions hold that share of the keys they were found in. With
    too little it is less: they are then those of a sample, and other text turns them.

    Args:
        seen: moments of the text whose leading directions are taken.
        fresh: moments of text that is not part of it.
        expert: its number; tokens of both texts reached it.
        energy: the share that the directions hold of the keys they are found in, above 0 and at most 1.

    Raises:
        StatisticsError: a moment is not finite or has no eigendecomposition.
    """
    basis = _used_directions(seen, expert, "energy", energy)  # (d_k, r)
    moment = fresh.mean(expert)  # (d_k, d_k)
    total = float(moment.trace())
    return float(((moment @ basis) * basis).sum()) / total if total > 0.0 else 1.0


def _rule(tau: float | None, energy: float | None) -> tuple[Rule, float]:
    """Which rule was chosen, and its level."""
    if tau is not None and energy is not None:
        raise ConfigError("tau and energy are two rules for the same choice: give only one of them")
    if tau is not None:
        if not tau >= 0.0:
            raise ConfigError(f"tau is {tau}: expected a number of at least 0")
        return "tau", tau
    energy = DEFAULT_ENERGY if energy is None else energy
    if not 0.0 < energy <= 1.0:
        raise ConfigError(f"energy is {energy}: expected a share above 0 and at most 1")
    return "energy", energy


def _used_directions(moments: Moments, expert: int, rule: Rule, level: float) -> Tensor:
    """The eigenvectors (d_k, r) of the expert's mean second moment that the rule keeps, weakest first."""
    moment = moments.mean(expert)  # (d_k, d_k)
    place = f"layer {moments.layer}, expert {expert}"
    if not bool(torch.isfinite(moment).all()):
        raise StatisticsError(
            f"{place}: the second moment of its keys is not finite: look for NaN in the model"
        )
    vectors: Tensor
    try:
        values, vectors = torch.linalg.eigh(moment)  # (d_k,) ascending, (d_k, d_k)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # documented, but not exported
        raise StatisticsError(f"{place}: the second moment has no eigendecomposition: {error}") from error
    rank = _rank(values.flip(0).clamp_min(0.0), rule, level)
    return vectors[:, len(values) - rank :].clone()  # a view would keep all of them in memory


def _rank(values: Tensor, rule: Rule, level: float) -> int:
    """How many of the descending eigenvalues (d_k,) count as used."""
    if rule == "tau":
        return int((values > level).sum())
    held = values.cumsum(0)  # (d_k,) sums of the first 1, 2, ... eigenvalues
    total = float(held[-1])
    return min(int((held < level * total).sum()) + 1, len(values)) if total > 0.0 else 0
