"""Recipe keys of training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ByteSize, Field, model_validator

from danlu.recipe.base import Pattern, Section, unfit

_OFFLOAD = "set training.backend.stage=3, or training.backend.offload=optimizer"


class SftObjective(Section):
    """Supervised fine-tuning: cross-entropy on answer tokens."""

    type: Literal["sft"]


class ThreePhaseSchedule(Section):
    """Linear warm-up, cosine, then a held floor."""

    type: Literal["three_phase"]
    warmup_share: float = Field(0.1, ge=0.0, le=1.0, description="Share of the steps that warm up.")
    floor_share: float = Field(0.05, ge=0.0, le=1.0, description="Share of the steps at the floor.")
    floor_learning_rate: float = Field(1.0e-6, ge=0.0, description="Learning rate of the last phase.")

    @model_validator(mode="after")
    def _shares_fit(self) -> ThreePhaseSchedule:
        if self.warmup_share + self.floor_share > 1.0:
            raise ValueError("warmup_share + floor_share must be at most 1")
        return self


class ConstantSchedule(Section):
    """Linear warm-up, then the same rate to the end."""

    type: Literal["constant"]
    warmup_share: float = Field(0.0, ge=0.0, le=1.0, description="Share of the steps that warm up.")


Schedule = Annotated[ThreePhaseSchedule | ConstantSchedule, Field(discriminator="type")]


class BaseDropout(Section):
    """Dropout inside the base model, beside the adapter's own; null: as the base's config says."""

    attention: float | None = Field(None, ge=0.0, lt=1.0, description="On attention weights.")
    hidden: float | None = Field(
        None,
        ge=0.0,
        lt=1.0,
        description="On what attention and MLP add to the states, and on embeddings where the family has it there.",
    )


class FreezeSection(Section):
    """What stays as it is when the base itself is trained."""

    first_layers: int = Field(0, ge=0, description="The lowest so many layers.")
    embeddings: bool = Field(False, description="Token embeddings (with a tied head, the head too).")
    modules: tuple[Pattern, ...] = Field((), description="Parameters whose name has a match of one of these.")


class AutoBackend(Section):
    """One process alone; several as ddp."""

    type: Literal["auto"]


class DdpBackend(Section):
    """Each process has the whole model; gradients are summed."""

    type: Literal["ddp"]


class Fsdp2Backend(Section):
    """Parameters, gradients and moments in shards (PyTorch's fully_shard)."""

    type: Literal["fsdp2"]
    cpu_offload: bool = Field(False, description="Shards rest in the host's memory, not on the GPU.")


class DeepSpeedBackend(Section):
    """DeepSpeed's ZeRO (arXiv 1910.02054): stage 2 shards gradients and moments, stage 3 parameters too."""

    type: Literal["deepspeed"]
    stage: Literal[2, 3] = Field(2, description="ZeRO stage.")
    offload: Literal["none", "optimizer", "all"] = Field(
        "none", description="What rests in the host's memory: nothing, moments, or (stage 3) parameters too."
    )

    @model_validator(mode="after")
    def _has_shards_to_offload(self) -> DeepSpeedBackend:
        if self.offload == "all" and self.stage == 2:
            raise unfit("needs stage: 3; in stage 2 each process computes with whole parameters", _OFFLOAD, "offload")
        return self


Backend = Annotated[AutoBackend | DdpBackend | Fsdp2Backend | DeepSpeedBackend, Field(discriminator="type")]


class CheckpointsSection(Section):
    """Checkpoints on the way."""

    every_steps: int = Field(500, ge=1, description="Optimizer steps between two.")
    keep_last: int = Field(3, ge=1, description="Older ones are removed.")


class TrainingSection(Section):
    """How the adapter is fitted."""

    objective: SftObjective = Field(SftObjective(type="sft"), description="What is minimised.")
    learning_rate: float = Field(2.0e-4, gt=0.0, le=1.0, description="Peak learning rate.")
    schedule: Schedule = Field(ThreePhaseSchedule(type="three_phase"), description="Learning rate by step.")
    num_epochs: float = Field(1.0, gt=0.0, le=10_000.0, description="Passes over the training rows; may be a part.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimizer steps.")
    global_batch_size: int = Field(8, ge=1, description="Rows per optimizer step, over all processes.")
    micro_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Most computed tokens per forward pass (one row may exceed it); memory follows it. null: 1024, on "
        "a GPU 8192 or as many as fit.",
    )
    activation_checkpointing: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Share of the layers whose activations are computed again in the backward pass, to save memory.",
    )
    max_memory: ByteSize | None = Field(
        None,
        gt=0,
        description="Most memory, such as 3GB: smaller micro-batches and checkpointed layers keep to it; on a GPU, "
        "it is the memory there, and null: what is free.",
    )
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = Field(
        "adamw", description="adamw, or bitsandbytes' with 8-bit moments, or paged to the host's memory on a GPU."
    )
    loraplus_lr_ratio: float | None = Field(
        None, ge=1.0, description="Learning rate of LoRA's B over that of A (LoRA+, arXiv 2402.12354); null: the same."
    )
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of a target's probability spread over the vocabulary, in training only."
    )
    neftune_noise_alpha: float | None = Field(
        None, gt=0.0, description="Noise on the embeddings in training (NEFTune, arXiv 2310.05914); null: none."
    )
    base_dropout: BaseDropout = Field(BaseDropout(), description="Dropout inside the base, in training only.")
    freeze: FreezeSection = Field(
        FreezeSection(), description="Without an adapter all weights are trained, but for these."
    )
    backend: Backend = Field(AutoBackend(type="auto"), description="How several processes share the work.")
    checkpoints: CheckpointsSection | None = Field(
        None, description="Kept on the way, to resume from with `danlu train --resume`; null: none."
    )
    weight_decay: float = Field(
        0.0, ge=0.0, description="Decoupled weight decay of AdamW, on matrices; biases and norms do not decay."
    )
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="AdamW's first moment decay.")
    beta2: float = Field(0.999, ge=0.0, lt=1.0, description="AdamW's second moment decay.")
    max_gradient_norm: float | None = Field(1.0, gt=0.0, description="Gradients are clipped to this norm.")
    evaluate_every_steps: int | None = Field(
        None, ge=1, description="Optimizer steps between evaluation losses; null: at each epoch's end."
    )
    evaluation_max_rows: int | None = Field(
        None, ge=1, description="Held-out rows, spread evenly, that these losses are taken on; null: all."
    )
