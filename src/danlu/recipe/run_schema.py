"""Recipe keys of a run: where it is kept, what makes it repeatable, who starts its processes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from danlu.recipe.base import Section


class LocalLauncher(Section):
    """This process, or those that `--nproc` or torchrun start."""

    type: Literal["local"]


class RayLauncher(Section):
    """Ray Train starts the workers, here or on a cluster, and starts them again when one is lost."""

    type: Literal["ray"]
    num_workers: int = Field(1, ge=1, description="Processes that share the work.")
    max_failures: int = Field(3, ge=0, description="How often lost workers are started again.")
    use_gpu: bool = Field(False, description="A GPU for each worker.")
    cpus_per_worker: int | None = Field(
        None, ge=1, description="Cores of each worker; null: those of this machine, shared; one each on a cluster."
    )
    address: str | None = Field(
        None, min_length=1, description="Of a Ray cluster; null: RAY_ADDRESS, or a Ray of the run's own, here."
    )


Launcher = Annotated[LocalLauncher | RayLauncher, Field(discriminator="type")]


class RunSection(Section):
    """Where a run is kept, what makes it repeatable, who starts it."""

    folder: str | None = Field(None, min_length=1, description="Run folder; null: runs/<name of the recipe file>.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the split, the order and the adapter.")
    launcher: Launcher = Field(LocalLauncher(type="local"), description="Who starts the processes of training.")
