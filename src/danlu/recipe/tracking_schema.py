"""Recipe keys of tracking: where else a run's metrics go."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from danlu.recipe.base import Section


def _has_no_password(address: str) -> str:
    if urlsplit(address).password is not None:
        raise ValueError("leave the password out: recipes are kept and sent on; the tracker's own variables hold it")
    return address


Address = Annotated[str, Field(min_length=1), AfterValidator(_has_no_password)]


class _TrackerSection(Section):
    """What every tracker has."""

    name: str | None = Field(None, min_length=1, description="The run's name there; null: the run folder's.")
    timeout_seconds: float = Field(
        30.0, gt=0.0, le=3600.0, description="Silence after which it counts as hanging; the end of a run waits so long."
    )


class TensorboardTracker(_TrackerSection):
    """TensorBoard's event files, in `tracking/tensorboard/` of the run folder."""

    type: Literal["tensorboard"]


class WandbTracker(_TrackerSection):
    """Weights & Biases; the key is taken from WANDB_API_KEY or `wandb login`."""

    type: Literal["wandb"]
    mode: Literal["online", "offline"] = Field("online", description="offline: files to be sent by `wandb sync`.")
    project: str = Field("danlu", min_length=1, description="Project that the run is listed in.")
    entity: str | None = Field(None, min_length=1, description="User or team; null: the key's own.")
    host: Address | None = Field(
        None, description="Address of a server of your own; null: WANDB_BASE_URL, or wandb.ai."
    )


class MlflowTracker(_TrackerSection):
    """MLflow, on a server or in a database file."""

    type: Literal["mlflow"]
    uri: Address | None = Field(
        None, description="Server or sqlite:///FILE; null: MLFLOW_TRACKING_URI, or mlflow.db beside the run folder."
    )
    experiment: str = Field("danlu", min_length=1, description="Experiment that the run is listed in.")


class SwanlabTracker(_TrackerSection):
    """SwanLab; the key is taken from SWANLAB_API_KEY or `swanlab login`."""

    type: Literal["swanlab"]
    mode: Literal["online", "offline"] = Field("online", description="offline: files to be sent by `swanlab sync`.")
    project: str = Field("danlu", min_length=1, description="Project that the run is listed in.")
    workspace: str | None = Field(None, min_length=1, description="User or team; null: the key's own.")
    host: Address | None = Field(
        None, description="Address of a server of your own; null: SWANLAB_API_HOST, or theirs."
    )


Tracker = Annotated[TensorboardTracker | WandbTracker | MlflowTracker | SwanlabTracker, Field(discriminator="type")]


class TrackingSection(Section):
    """Where a run's recipe, metrics and result go besides the run folder; none of it can stop the run."""

    trackers: tuple[Tracker, ...] = Field((), description="Any number at once, as in [{type: tensorboard}].")
