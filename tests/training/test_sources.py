"""Finding files, folders and data sets, and what is said when there are none."""

import csv
import json

import datasets
import pytest

from offramp.errors import ConfigError, InputError
from offramp.training import sources
from offramp.training.sources import open_source


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def rows_of(source, *, split="train", streaming=False, text="text"):
    found = open_source(source, split=split, streaming=streaming)
    return [row for _, row in found.rows(text)]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    return str(path)


def test_several_files_are_read_in_the_order_given(tmp_path):
    second, first = write(tmp_path / "a.jsonl", "2"), write(tmp_path / "b.jsonl", "1")

    assert [row["text"] for row in rows_of([first, second])] == ["1", "2"]


def test_a_folder_without_splits_is_read_by_name(tmp_path):
    folder = tmp_path / "[odd] *name"
    write(folder / "b.jsonl", "2")
    write(folder / "a.jsonl", "1")
    (folder / "README.md").write_text("no rows")

    assert [row["text"] for row in rows_of(str(folder))] == ["1", "2"]


def test_a_folder_gives_the_files_of_a_split(tmp_path):
    write(tmp_path / "data" / "train-00000.jsonl", "learn")
    write(tmp_path / "data" / "test-00000.jsonl", "keep")

    assert [row["text"] for row in rows_of(str(tmp_path))] == ["learn"]
    assert [row["text"] for row in rows_of(str(tmp_path), split="test")] == ["keep"]
    with pytest.raises(
        InputError, match=r"has no split 'dev', its files are named for train, test"
    ):
        rows_of(str(tmp_path), split="dev")


def test_a_folder_without_rows_says_what_it_should_hold(tmp_path):
    write(tmp_path / ".hidden" / "rows.jsonl", "no")
    (tmp_path / "README.md").write_text("no rows")

    with pytest.raises(InputError, match=r"holds no file that can be read; put \.txt, \.jsonl"):
        rows_of(str(tmp_path))


def test_what_datasets_saved_is_read(tmp_path):
    data = datasets.Dataset.from_dict({"text": ["a", "b"]})
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "many"))

    assert rows_of(str(tmp_path / "one")) == [{"text": "a"}, {"text": "b"}]
    assert rows_of(str(tmp_path / "many")) == [{"text": "a"}, {"text": "b"}]
    with pytest.raises(InputError, match=r"many/test holds no file that can be read"):
        rows_of(str(tmp_path / "many"), split="test")


def test_files_have_no_split(tmp_path):
    source = write(tmp_path / "a.jsonl", "1")

    with pytest.raises(ConfigError, match="files have no split, got 'test'"):
        rows_of(source, split="test")


@pytest.mark.parametrize("source", ["nowhere.jsonl", "./not/even/here", "/nowhere/not here either"])
def test_a_missing_file_is_not_looked_for_on_the_hub(source):
    with pytest.raises(
        InputError, match=r"^cannot read .*: No such file or directory; name a file"
    ):
        rows_of(source)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "rows.xlsx"
    path.write_bytes(b"x")

    with pytest.raises(InputError, match=r"cannot tell what .*rows.xlsx is; name \.txt"):
        rows_of(str(path))


@pytest.mark.parametrize("streaming", [False, True])
def test_without_network_a_name_on_the_hub_ends_in_one_line(streaming):
    with pytest.raises(InputError, match=r"^cannot read nobody/nothing:small: .*") as caught:
        rows_of("nobody/nothing:small", streaming=streaming)

    assert "\n" not in str(caught.value)


def test_what_is_loaded_is_not_counted_on_the_hub():
    before = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS

    with sources._uncounted():
        assert datasets.config.HF_UPDATE_DOWNLOAD_COUNTS is False

    assert before == datasets.config.HF_UPDATE_DOWNLOAD_COUNTS


def test_a_damaged_parquet_file_ends_in_one_line(tmp_path):
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict({"text": ["a"] * 100}).to_parquet(str(path))
    path.write_bytes(path.read_bytes()[:-50])

    with pytest.raises(
        InputError, match=r"^cannot read .*rows.parquet: .*; name a whole"
    ) as caught:
        rows_of(str(path))

    assert "\n" not in str(caught.value)


def test_parquet_is_read(tmp_path):
    rows = [{"text": str(number), "tokens": [number]} for number in range(300)]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))

    assert rows_of(str(tmp_path / "rows.parquet")) == rows


def test_csv_is_read_as_text(tmp_path):
    rows = [{"id": str(i), "text": text} for i, text in enumerate(["NA", "007", 'a\n"b", c', "é"])]
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text"])
        writer.writeheader()
        writer.writerows(rows)

    assert rows_of(str(tmp_path / "rows.csv")) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Empty CSV file"),
        (b"text,n\na,1\nb\n", "Expected 2 columns, got 1"),
        (b"text\n\xff\n", "invalid UTF8"),
    ],
)
def test_a_bad_csv_file_ends_in_one_line(tmp_path, content, message):
    (tmp_path / "rows.csv").write_bytes(content)

    with pytest.raises(InputError, match=f"^cannot read .*rows.csv: .*{message}"):
        rows_of(str(tmp_path / "rows.csv"))
