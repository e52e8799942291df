"""The kinds of adapters, each in plain values that are named as in the recipe."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Adapter(abc.ABC):
    """What all kinds have.

    Attributes:
        layers_to_transform: indices of the layers that get an adapter; None for all.
        modules_to_save: full names of modules that are trained whole and saved with the adapter.
    """

    layers_to_transform: Sequence[int] | None = None
    modules_to_save: Sequence[str] = ()

    @abc.abstractmethod
    def peft_config(self, target_modules: Sequence[str], task_type: str, tied: bool, seed: int) -> Any:
        """PEFT's config.

        Args:
            target_modules: last parts of module names.
            task_type: PEFT's, `CAUSAL_LM` or `SEQ_2_SEQ_LM`.
            tied: whether embeddings and head, which are one matrix, are trained whole.
            seed: of what PEFT draws by a generator of its own.
        """

    def _placed(self, target_modules: Sequence[str], task_type: str) -> dict[str, Any]:
        layers = self.layers_to_transform
        return {
            "task_type": task_type,
            "target_modules": list(target_modules),
            "modules_to_save": list(self.modules_to_save) or None,
            **({} if layers is None else {"layers_to_transform": list(layers)}),
        }


@dataclass(frozen=True)
class Lora(Adapter):
    """LoRA (arXiv 2106.09685).

    Attributes:
        rank: r of the update B·A.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapter's input.
        rank_pattern: another rank by the end of a module's name; no module may match two ends.
        alpha_pattern: another alpha, likewise.
        bias: the base's biases that are trained too: `none`, `all`, or with `lora_only` those of adapted layers.
        use_rslora: scales by alpha / √rank (arXiv 2312.03732).
        use_dora: direction and magnitude apart (arXiv 2402.09353).
        init_lora_weights: how A and B start: `default`, `gaussian`, `orthogonal`, `olora`, `pissa`, `pissa_niter_N`.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: str = "default"

    def peft_config(self, target_modules: Sequence[str], task_type: str, tied: bool, seed: int) -> Any:
        """PEFT's config."""
        from peft import LoraConfig

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using Rank-Stabilized LoRA with rank_pattern")  # it can be saved here
            return LoraConfig(
                **self._placed(target_modules, task_type),
                r=self.rank,
                lora_alpha=self.alpha,
                lora_dropout=self.dropout,
                rank_pattern=dict(self.rank_pattern),
                alpha_pattern=dict(self.alpha_pattern),
                bias=self.bias,
                ensure_weight_tying=tied,
                use_rslora=self.use_rslora,
                use_dora=self.use_dora,
                init_lora_weights=True if self.init_lora_weights == "default" else self.init_lora_weights,
            )


@dataclass(frozen=True)
class Ia3(Adapter):
    """(IA)³ (arXiv 2205.05638): a vector that scales each layer's output.

    Attributes:
        feedforward_modules: those whose input is scaled.
    """

    feedforward_modules: Sequence[str] = ()

    def peft_config(self, target_modules: Sequence[str], task_type: str, tied: bool, seed: int) -> Any:
        """PEFT's config."""
        from peft import IA3Config

        return IA3Config(**self._placed(target_modules, task_type), feedforward_modules=list(self.feedforward_modules))


@dataclass(frozen=True)
class Loha(Adapter):
    """LoHa (arXiv 2108.06098): the update is the element-wise product of two low-rank matrices.

    Attributes:
        rank: r of both.
        alpha: the update is scaled by alpha / rank.
        rank_dropout: share of the update's rows that are left out.
        module_dropout: how often a whole layer's update is left out.
        rank_pattern: as LoRA's.
        alpha_pattern: as LoRA's.
    """

    rank: int
    alpha: float
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def peft_config(self, target_modules: Sequence[str], task_type: str, tied: bool, seed: int) -> Any:
        """PEFT's config."""
        from peft import LoHaConfig

        return LoHaConfig(**self._placed(target_modules, task_type), **self._sizes())

    def _sizes(self) -> dict[str, Any]:
        return {
            "r": self.rank,
            "alpha": self.alpha,
            "rank_dropout": self.rank_dropout,
            "module_dropout": self.module_dropout,
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": dict(self.alpha_pattern),
        }


@dataclass(frozen=True)
class Lokr(Loha):
    """LoKr (arXiv 2309.14859): the update is a Kronecker product, its larger factor of low rank.

    Attributes:
        decompose_both: the smaller factor too.
        decompose_factor: size of the smaller factor; -1: as near to the square root as the layer allows.
    """

    decompose_both: bool = False
    decompose_factor: int = -1

    def peft_config(self, target_modules: Sequence[str], task_type: str, tied: bool, seed: int) -> Any:
        """PEFT's config."""
        from peft import LoKrConfig

        return LoKrConfig(
            **self._placed(target_modules, task_type),
            **self._sizes(),
            decompose_both=self.decompose_both,
            decompose_factor=self.decompose_factor,
        )


@dataclass(frozen=True)
class Vera(Adapter):
    """VeRA (arXiv 2310.11454): vectors beside one pair of random matrices that all layers share.

    Attributes:
        rank: of the pair.
        dropout: on the adapter's input.
        d_initial: first value of the inner vector.
    """

    rank: int
    dropout: float = 0.0
    d_initial: float = 0.1

    def peft_config(self, target_modules: Sequence[str], task_type: str, tied: bool, seed: int) -> Any:
        """PEFT's config; the pair is saved with the adapter."""
        from peft import VeraConfig

        return VeraConfig(
            **self._placed(target_modules, task_type),
            r=self.rank,
            vera_dropout=self.dropout,
            d_initial=self.d_initial,
            projection_prng_key=seed,
        )


KINDS: dict[str, type[Adapter]] = {"lora": Lora, "ia3": Ia3, "loha": Loha, "lokr": Lokr, "vera": Vera}
