"""From one entry of data.train or data.evaluation to the files that it means."""

from __future__ import annotations

import glob
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from danlu.data.sources.blocks import fault_of
from danlu.data.sources.hub import HUB_ID, fetch_dataset, files_of_split
from danlu.data.sources.kinds import Source, is_remote, kind_of_name, known_kinds
from danlu.data.sources.remote import list_remote
from danlu.errors import DataError, Fault

_IGNORED = re.compile(
    r"(readme|licen[cs]e|notice|requirements|changelog)(\.(txt|md|rst))?"
    r"|dataset_infos?\.json|dataset_dict\.json|state\.json|manifest\.json",
    re.IGNORECASE,
)
_STATE, _SPLITS = "state.json", "dataset_dict.json"
_Find = Callable[[str], Path]


def find_sources(name: str, find: _Find) -> list[Source]:
    """The files of one entry, sorted by name.

    An entry is, in the order in which it is tried: a URL (of a file, a folder or a pattern), a path, a pattern
    (`*`, `?`, `[...]`, `**`), or a hub data set `owner/name`. Of a folder all data files count, however deep, except
    hidden ones and such as README.txt; of one that `datasets` saved, those that it lists. A saved DatasetDict and a
    hub data set have splits: train is taken, or the one named after a colon (`owner/name:validation`); a saved
    DatasetDict with a single split needs no name.

    Args:
        name: the entry.
        find: resolves a plain path; `LoadedRecipe.find`.

    Raises:
        DataError: nothing is there, or there are no data files in it.
    """
    if is_remote(name) and not name.lower().startswith("file://"):
        return _remote(name)
    name = unquote(urlsplit(name).path) if is_remote(name) else name
    path = find(name)
    if os.path.exists(path):
        return _local(path, None)
    matches = _matches(name, find)
    if matches is not None:
        return matches
    before, colon, split = name.rpartition(":")
    if colon and split and os.path.isdir(find(before)):
        return _local(find(before), split)
    return _from_hub(name, path)


def _local(path: Path, split: str | None) -> list[Source]:
    if not os.path.isdir(path):
        return [_source(path)]
    if (path / _SPLITS).is_file():
        return _saved_splits(path, split)
    if (path / _STATE).is_file():
        return _saved(path)
    files, others = _data_files(path)
    note = f"left alone: {_few(others)}" if others else ""
    if split:
        files, known = files_of_split(path, files, split)
        if not files:
            raise _no_split(str(path), split, known)
    if not files:
        raise DataError(
            Fault(
                "the folder has no data files",
                str(path),
                known_kinds(),
                "check the path" + (f"; there is {_few(others)}" if others else ""),
            )
        )
    return [_source(file, note if number == 0 else "") for number, file in enumerate(files)]


def _source(path: Path, note: str = "") -> Source:
    """The source that a path is, which must be a file: a pipe would be waited for without end."""
    source = Source(str(path), kind_of_name(path.name), note)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise DataError(fault_of(error, source.shown)) from error
    if not stat.S_ISREG(mode):
        raise DataError(
            Fault("this is neither a file nor a folder", source.shown, "a file", "write the rows to a file")
        )
    return source


def _data_files(folder: Path) -> tuple[list[Path], list[str]]:
    """All data files under a folder, and the names of others, and of links to folders, which may lead back."""
    files, others = [], []

    def refuse(error: OSError) -> None:
        raise DataError(fault_of(error, str(error.filename or folder))) from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        others += [f"{inner}/ (a link)" for inner in folders if os.path.islink(os.path.join(place, inner))]
        for name in names:
            if name.startswith(".") or _IGNORED.fullmatch(name):
                continue
            if kind_of_name(name) == "unknown":
                others.append(name)
            else:
                files.append(Path(place) / name)
    return _sorted(files), sorted(others)


def _sorted(files: Iterable[Path]) -> list[Path]:
    return sorted(dict.fromkeys(files), key=lambda path: path.as_posix())


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _saved_splits(folder: Path, split: str | None) -> list[Source]:
    splits = _listed(folder / _SPLITS, "splits", lambda item: str(item))
    chosen = split or ("train" if "train" in splits else splits[0] if len(splits) == 1 else None)
    if chosen not in splits:
        raise _no_split(str(folder), chosen, splits)
    files = _saved(folder / str(chosen))
    note = f"split {chosen} of {', '.join(splits)}" if len(splits) > 1 else ""
    return [Source(file.path, file.kind, note if number == 0 else "") for number, file in enumerate(files)]


def _saved(folder: Path) -> list[Source]:
    """The files of a data set that `datasets` saved, as its state lists them: caches may lie beside them."""
    state = folder / _STATE
    names = _listed(state, "_data_files", lambda item: str(item["filename"]))
    missing = [name for name in names if not os.path.isfile(folder / name)]
    if missing or not names:
        what = f"the data set lacks files that it lists: {_few(missing)}" if missing else "the data set has no files"
        raise DataError(Fault(what, str(state), "all files that save_to_disk wrote", "save or copy the folder again"))
    return [_source(folder / name) for name in names]


def _listed(path: Path, key: str, name_of: Callable[[Any], str]) -> list[str]:
    try:
        return [name_of(item) for item in json.loads(path.read_text(encoding="utf-8"))[key]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            Fault(f"the data set's description has no `{key}`", str(path), "a folder of save_to_disk", "save it again")
        ) from error


def _no_split(place: str, split: str | None, known: list[str]) -> DataError:
    what = f"there is no split `{split}`" if split else "there are several splits, and none is train"
    first = known[0] if known else "train"
    return DataError(Fault(what, place, ", ".join(known) or "none is known", f"name one: {place}:{first}"))


def _matches(name: str, find: _Find) -> list[Source] | None:
    """The files that a pattern means; none if the name is no pattern."""
    if not glob.has_magic(name):
        return None
    parts = Path(os.path.expanduser(name)).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base = find(str(Path(*parts[:fixed]))) if fixed else Path()
    files: list[Path] = []
    for match in map(Path, _glob(str(base), parts[fixed:])):
        if os.path.isdir(match):
            files += _data_files(match)[0]
        elif not _IGNORED.fullmatch(match.name):
            files.append(match)
    if parts[-1] in ("*", "**"):
        files = [file for file in files if kind_of_name(file.name) != "unknown"]
    if not files:
        raise DataError(
            Fault("no data file matches the pattern", name, "`*`, `?`, `[...]`, and `**` for folders", "check it: ls")
        )
    return [_source(file) for file in _sorted(files)]


def _glob(base: str, parts: Sequence[str]) -> Iterator[str]:
    """What matches a pattern's parts under a folder; `**` goes into no links to folders, which may lead back."""
    number = parts.index("**") if "**" in parts else len(parts)
    found = glob.iglob(os.path.join(glob.escape(base), *parts[:number])) if number else [base]
    if number == len(parts):
        yield from found
        return
    rest = parts[number + 1 :]
    for start in filter(os.path.isdir, found):
        if not rest:
            yield start
            continue
        for folder, folders, _ in os.walk(start):
            folders[:] = [inner for inner in folders if not inner.startswith(".")]
            yield from _glob(folder, rest)


def _remote(url: str) -> list[Source]:
    shown = Source(url, "").shown
    urls, alone = list_remote(url, shown)
    if not alone:
        names = {found: found.rsplit("/", 1)[-1] for found in urls}
        urls = [
            found
            for found, name in names.items()
            if not name.startswith(".") and not _IGNORED.fullmatch(name) and kind_of_name(name) != "unknown"
        ]
    if not urls:
        raise DataError(Fault("no data files are there", shown, known_kinds(), "check the URL"))
    return [Source(found, kind_of_name(found)) for found in urls]


def _from_hub(name: str, path: Path) -> list[Source]:
    tried = [f"path {path}: not there"]
    form = HUB_ID.fullmatch(name)
    if form and kind_of_name(form[1]) == "unknown":
        folder = fetch_dataset(form[1])
        if isinstance(folder, Path):
            return _from_snapshot(name, folder, form[2])
        tried.append(f"hub data set: {folder}")
    else:
        tried.append("hub data set: not of the form owner/name")
    raise DataError(
        Fault(
            "no such data file",
            f"{name}; tried " + "; ".join(tried),
            "file, folder, pattern, URL or hub data set id; a path from here, or from beside the recipe",
            "check data.train and data.evaluation, or fetch the data set where there is a network",
        )
    )


def _from_snapshot(name: str, folder: Path, split: str | None) -> list[Source]:
    files, known = files_of_split(folder, _data_files(folder)[0], split)
    if not files:
        if not known:
            raise DataError(Fault("the data set has no data files", name, known_kinds(), "choose another"))
        raise _no_split(name.partition(":")[0], split, known)
    note = f"split {split or 'train'} of {', '.join(known)}" if len(known) > 1 else ""
    return [_source(file, note if number == 0 else "") for number, file in enumerate(files)]
