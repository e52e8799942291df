"""Forecast and machine, for people."""

from __future__ import annotations

from typing import Any

from danlu.planning.command import CLAIM
from danlu.planning.devices import GIB


def plan_text(found: dict[str, Any]) -> str:
    """The forecast of `danlu.planning.command.run_plan` as a table."""
    device, memory = found["device"], found["memory"]
    how = "measured by a probe of two steps" if found["probed"] else "from shapes alone"
    lines = [
        f"{found['model']} on {device['name']} ({device['memory_bytes'] / GIB:.1f} GiB): {how}",
        f"  memory  {found['memory_bytes'] / GIB:.2f} GiB at most, {'fits' if found['fits'] else 'DOES NOT FIT'}",
        *(f"    {name:<12}{size / GIB:>8.2f}" for name, size in memory["parts"].items()),
    ]
    if memory["loading"] > memory["training"]:
        lines.append(f"    {'loading':<12}{memory['loading'] / GIB:>8.2f}  more than training")
    lines += [
        f"  time    {duration(found['seconds'])} for {found['steps']:,} steps, at most "
        f"{found['micro_batch_tokens']:,} tokens in a micro-batch",
        f"  disk    {found['disk_bytes'] / 1e9:.2f} GB",
        *(f"  note    {note}" for note in found["notes"]),
        "",
        f"{'':<22}{'GiB':>8}{'fits':>6}{'time':>12}  to get it",
    ]
    for one in found["neighbours"]:
        if "failed" in one:
            lines.append(f"{one['name']:<22}{'':>8}{'':>6}{'':>12}  {one['failed']}")
            continue
        fits, time = "yes" if one["fits"] else "no", duration(one["seconds"])
        lines.append(f"{one['name']:<22}{one['memory_bytes'] / GIB:>8.2f}{fits:>6}{time:>12}  {one['change']}")
    if found["saved_share"] is not None:
        lines.append(f"QLoRA takes {found['saved_share']:.0%} less than full fine-tuning here (the tutorials: {CLAIM})")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whatever reads well."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def doctor_text(found: dict[str, Any]) -> str:
    """What `danlu.planning.doctor.examine` found."""
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_bytes'] / GIB:.0f} GiB)" for gpu in found["gpus"]) or "none"
    extras = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in found["extras"].items())
    talk = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in found["backends"].items())
    memory, disk = found["memory"], found["disk"]
    lines = [
        f"cores     {found['cores']['usable']} to use of {found['cores']['machine']}",
        f"memory    {memory['free_bytes'] / GIB:.1f} GiB free of {memory['total_bytes'] / GIB:.1f}",
        f"disk      {disk['free_bytes'] / GIB:.0f} GiB free for {disk['folder']}",
        f"GPUs      {gpus}",
        f"dtypes    {', '.join(f'{name} {how}' for name, how in found['dtypes'].items())}",
        f"extras    {extras}",
        f"backends  {talk}",
        "",
        f"{found['basis']}",
        f"{'':<8}" + "".join(f"{method:>18}" for method in found["methods"]),
    ]
    for size, fits in found["fits"].items():
        cells = "".join(
            f"{one['memory_bytes'] / GIB:>10.1f} GiB {'yes' if one['fits'] else 'no':>3}" for one in fits.values()
        )
        lines.append(f"{size:<8}{cells}")
    return "\n".join(lines)
