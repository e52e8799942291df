import json
import os
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest

from danlu.data.sources import Source, find_sources, fingerprint, known_kinds, read_rows
from danlu.data.sources import hub as hub_module
from danlu.data.sources import remote as remote_module
from danlu.data.sources.hub import split_of
from danlu.errors import DataError
from danlu.recipe.load import LoadedRecipe


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.fixture
def find(here):
    return LoadedRecipe(None, here / "recipes" / "recipe.yaml").find


def put(*paths, text='{"a": 1}\n'):
    for path in paths:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)


def names(sources):
    return [source.path for source in sources]


def fault_of(name, find):
    with pytest.raises(DataError) as caught:
        find_sources(name, find)
    assert caught.value.exit_status == 2
    assert len(caught.value.faults) == 1
    return caught.value.faults[0]


def test_a_file_is_its_own_source_and_its_ending_tells_the_kind(find):
    put("rows.jsonl", "a.CSV", "b.txt.gz", "rows")
    assert find_sources("rows.jsonl", find) == [Source("rows.jsonl", "json")]
    assert find_sources("a.CSV", find) == [Source("a.CSV", "csv")]
    assert find_sources("b.txt.gz", find) == [Source("b.txt.gz", "text")]
    assert find_sources("rows", find) == [Source("rows", "unknown")]


def test_a_file_beside_the_recipe_is_found(find, here):
    put("recipes/rows.jsonl")
    assert names(find_sources("rows.jsonl", find)) == [str(here / "recipes" / "rows.jsonl")]


def test_a_file_url_is_a_path(find, here):
    put("my rows.jsonl")
    assert names(find_sources(f"file://{here}/my%20rows.jsonl", find)) == [str(here / "my rows.jsonl")]


def test_a_folder_gives_its_data_files_sorted_and_tells_what_it_left_alone(find):
    put("d/b.jsonl", "d/a/z.csv", "d/a/y.parquet", "d/c.txt.zst")
    put("d/README.md", "d/README.txt", "d/dataset_infos.json", "d/.hidden.json", "d/.git/x.json", "d/LICENSE")
    put("d/cat.png", "d/rows.jsonl.xz")
    sources = find_sources("d", find)
    assert names(sources) == ["d/a/y.parquet", "d/a/z.csv", "d/b.jsonl", "d/c.txt.zst"]
    assert sources[0].note == "left alone: cat.png, rows.jsonl.xz"


def test_a_data_file_whose_name_begins_like_a_note_is_no_note(find):
    put("d/requirements-questions.jsonl", "d/notice.jsonl")
    assert len(find_sources("d", find)) == 2


def test_a_folder_without_data_is_refused_and_says_what_is_there(find):
    put("d/cat.png", "d/README.md")
    fault = fault_of("d", find)
    assert (fault.what, fault.where, fault.allowed) == ("the folder has no data files", "d", known_kinds())
    assert "cat.png" in fault.hint


def test_patterns_are_taken_from_here_or_beside_the_recipe(find, here):
    put("d/b.jsonl", "d/a.jsonl", "d/c.csv", "d/e/f.jsonl", "recipes/rows/x.csv", "d/README.md", "d/cat.png")
    assert names(find_sources("d/*.jsonl", find)) == ["d/a.jsonl", "d/b.jsonl"]
    assert names(find_sources("d/**/*.jsonl", find)) == ["d/a.jsonl", "d/b.jsonl", "d/e/f.jsonl"]
    assert names(find_sources("d/[ac].*", find)) == ["d/a.jsonl", "d/c.csv"]
    assert names(find_sources("d/**", find)) == ["d/a.jsonl", "d/b.jsonl", "d/c.csv", "d/e/f.jsonl"]
    assert names(find_sources("*/*.csv", find)) == ["d/c.csv"]
    assert names(find_sources("rows/*.csv", find)) == [str(here / "recipes" / "rows" / "x.csv")]
    assert fault_of("d/*.tsv", find).what == "no data file matches the pattern"


def test_links_that_lead_back_are_not_followed_round_and_round(find, here):
    put("d/e/rows.jsonl")
    os.symlink("..", "d/e/back")
    os.symlink("e", "d/other")
    for name in ("d", "d/**", "d/**/*.jsonl"):
        assert "d/e/rows.jsonl" in names(find_sources(name, find))
        assert not [path for path in names(find_sources(name, find)) if "back" in path]


def test_a_file_with_brackets_in_its_name_is_no_pattern(find):
    put("rows[1].jsonl")
    assert names(find_sources("rows[1].jsonl", find)) == ["rows[1].jsonl"]


def save_to_disk(folder, rows, shards=1):
    """As the library `datasets` does, with a cache beside the data."""
    os.makedirs(folder)
    files = [f"data-{number:05}-of-{shards:05}.arrow" for number in range(shards)]
    for number, file in enumerate([*files, "cache-1a2b.arrow"]):
        table = pa.Table.from_pylist(rows[number::shards] if file in files else rows)
        with pa.OSFile(f"{folder}/{file}", "wb") as target, pa.ipc.new_stream(target, table.schema) as writer:
            writer.write_table(table)
    put(f"{folder}/state.json", text=json.dumps({"_data_files": [{"filename": file} for file in files]}))
    put(f"{folder}/dataset_info.json", text="{}")


def test_a_saved_data_set_is_the_files_that_its_state_lists(find):
    save_to_disk("saved", [{"a": n} for n in range(4)], shards=2)
    sources = find_sources("saved", find)
    assert names(sources) == ["saved/data-00000-of-00002.arrow", "saved/data-00001-of-00002.arrow"]
    assert [row.value["a"] for source in sources for row in read_rows(source)] == [0, 2, 1, 3]
    os.remove("saved/data-00001-of-00002.arrow")
    assert fault_of("saved", find).what.endswith("data-00001-of-00002.arrow")


def test_of_saved_splits_train_is_taken_and_another_by_its_name(find):
    for split in ("train", "test"):
        save_to_disk(f"saved/{split}", [{"a": split}])
    put("saved/dataset_dict.json", text='{"splits": ["train", "test"]}')
    (source,) = find_sources("saved", find)
    assert source.path == "saved/train/data-00000-of-00001.arrow"
    assert source.note == "split train of train, test"
    assert names(find_sources("saved:test", find)) == ["saved/test/data-00000-of-00001.arrow"]
    fault = fault_of("saved:dev", find)
    assert (fault.what, fault.allowed) == ("there is no split `dev`", "train, test")


@pytest.mark.parametrize(("splits", "found"), [(["test"], 1), (["test", "dev"], 0)])
def test_saved_splits_without_train_need_a_name_unless_there_is_one_alone(find, splits, found):
    for split in splits:
        save_to_disk(f"saved/{split}", [{"a": split}])
    put("saved/dataset_dict.json", text=json.dumps({"splits": splits}))
    if found:
        assert names(find_sources("saved", find)) == ["saved/test/data-00000-of-00001.arrow"]
    else:
        assert fault_of("saved", find).what == "there are several splits, and none is train"


def test_a_name_that_nothing_answers_to_lists_the_places_tried(find):
    fault = fault_of("owner/rows", find)
    assert fault.what == "no such data file"
    assert fault.where.startswith("owner/rows; tried path owner/rows: not there; hub data set: the hub is not reached")
    assert "not of the form owner/name" in fault_of("none.jsonl", find).where
    assert "not of the form owner/name" in fault_of("data/none.jsonl", find).where


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "", ":train", "~nobody/x", "[", "s3:/x"])
def test_names_that_can_not_be_are_refused(find, name):
    assert fault_of(name, find).where


def test_a_hub_data_set_gives_the_split_that_is_wanted(find, here, monkeypatch):
    put("hub/data/train-00000-of-00001.jsonl", "hub/data/test-00000-of-00001.jsonl", "hub/README.md")
    asked = []

    def snapshot(name):
        asked.append(name)
        return here / "hub"

    monkeypatch.setattr("danlu.data.sources.find.fetch_dataset", snapshot)
    (source,) = find_sources("owner/rows", find)
    assert source.path.endswith("train-00000-of-00001.jsonl")
    assert source.note == "split train of test, train"
    assert names(find_sources("owner/rows:test", find))[0].endswith("test-00000-of-00001.jsonl")
    assert fault_of("owner/rows:dev", find).what == "there is no split `dev`"
    assert asked == ["owner/rows"] * 3
    os.remove("hub/data/train-00000-of-00001.jsonl")
    os.rename("hub/data/test-00000-of-00001.jsonl", "hub/latest.jsonl")
    assert names(find_sources("owner/rows", find)) == [str(here / "hub" / "latest.jsonl")]


def test_splits_are_seen_in_whole_words_of_names():
    assert split_of("data/train-00000-of-00002.parquet") == "train"
    assert split_of("default/validation/0000.parquet") == "validation"
    assert split_of("my_dev.jsonl") == "validation"
    assert split_of("latest_trains.jsonl") is None


def test_hub_errors_never_come_through(here):
    assert isinstance(hub_module.fetch_dataset("owner/rows"), str)


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def test_files_of_other_file_systems_are_read_and_known_again(find, memory):
    memory.pipe("/rows/b.jsonl", b'{"a": 1}\n')
    memory.pipe("/rows/a.csv", b"a\n1\n")
    memory.pipe("/rows/README.md", b"hello")
    table = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table({"a": [1, 2]}), table)
    memory.pipe("/rows/c.parquet", table.getvalue().to_pybytes())
    sources = find_sources("memory://rows", find)
    assert names(sources) == ["memory:///rows/a.csv", "memory:///rows/b.jsonl", "memory:///rows/c.parquet"]
    rows = [(row.value, row.where) for source in sources for row in read_rows(source)]
    assert rows == [
        ({"a": "1"}, "memory:///rows/a.csv:2"),
        ({"a": 1}, "memory:///rows/b.jsonl:1"),
        ({"a": 1}, "memory:///rows/c.parquet, row 1"),
        ({"a": 2}, "memory:///rows/c.parquet, row 2"),
    ]
    assert names(find_sources("memory://rows/*.csv", find)) == ["memory:///rows/a.csv"]
    (source,) = find_sources("memory://rows/b.jsonl", find)
    before = fingerprint(source)
    assert fingerprint(source) == before
    memory.pipe("/rows/b.jsonl", b'{"a": 2}\n')
    assert fingerprint(source) != before


def test_copies_of_remote_files_are_removed(find, memory):
    memory.pipe("/rows.jsonl", b'{"a": 1}\n{"a": 2}\n')
    rows = read_rows(find_sources("memory://rows.jsonl", find)[0])
    next(rows)
    downloads = remote_module.danlu_home() / "downloads"
    assert len(list(downloads.iterdir())) == 1
    rows.close()
    assert not list(downloads.iterdir())


@pytest.mark.parametrize("url", ["memory://none.jsonl", "memory://none/*.csv", "nowhere://x/y.csv", "memory://"])
def test_urls_without_anything_behind_them_are_refused(find, memory, url):
    assert fault_of(url, find).where == url


def test_a_package_that_is_missing_is_named_with_its_extra(find, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    fault = fault_of("s3://bucket/rows.jsonl", find)
    assert "not installed" in fault.what
    assert fault.hint == "pip install 'danlu[s3]'"


def test_a_server_that_is_not_there_is_an_error_with_its_url(find):
    fault = fault_of("http://127.0.0.1:9/rows.jsonl", find)
    assert fault.where == "http://127.0.0.1:9/rows.jsonl"
    assert fault.hint


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


def test_a_file_of_a_web_server_is_read_and_a_changed_one_is_seen(find, here):
    pytest.importorskip("aiohttp")
    put("rows.jsonl", text='{"a": 1}\n{"a": 2}\n')
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(here)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/rows.jsonl"
        (source,) = find_sources(url + "?signature=abc", find)
        assert source.kind == "json"
        assert [(row.value["a"], row.where) for row in read_rows(source)] == [(1, f"{url}:1"), (2, f"{url}:2")]
        before = fingerprint(source)
        assert fingerprint(source) == before
        put("rows.jsonl", text='{"a": 3}\n')
        assert fingerprint(source) != before
        with pytest.raises(DataError, match="no such data file"):
            find_sources(url.replace("rows", "none"), find)
    finally:
        server.shutdown()
        server.server_close()


def test_passwords_and_signatures_of_urls_are_not_shown():
    source = Source("https://user:secret@host/a/rows.jsonl?signature=abc", "json")
    assert source.shown == "https://host/a/rows.jsonl"
    assert Source("s3://key:secret@bucket/what?#1.csv", "csv").shown == "s3://bucket/what?#1.csv"


def test_the_fingerprint_of_a_file_is_that_of_its_content(find):
    put("a.jsonl", "b.jsonl")
    put("c.jsonl", text='{"a": 2}\n')
    a, b, c = (fingerprint(find_sources(f"{name}.jsonl", find)[0]) for name in "abc")
    assert a == b != c
    with pytest.raises(DataError, match="no such data file"):
        fingerprint(Source("none.jsonl", "json"))


@pytest.mark.parametrize("name", ["d/rows.jsonl", "d", "d/*"])
def test_pipes_are_refused_wherever_they_lie_and_never_waited_for(find, here, name):
    put("d/more.jsonl")
    os.mkfifo("d/rows.jsonl")
    fault = fault_of(name, find)
    assert (fault.what, fault.where) == ("this is neither a file nor a folder", "d/rows.jsonl")


def test_a_link_to_itself_in_a_folder_is_refused_with_a_hint(find, here):
    put("d/rows.jsonl")
    os.symlink("loop.jsonl", "d/loop.jsonl")
    fault = fault_of("d", find)
    assert (fault.what, fault.where) == ("can't read the data file: Too many levels of symbolic links", "d/loop.jsonl")
    assert fault.hint
