"""Labels of a file are what the file says: nothing moves, nothing is dropped, and what is unclear is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvetl.errors import UsageError

pytest.importorskip("torch", reason="datasets need torch")

from tvetl.datasets import read_labels

#: The first lines of Oxford-IIIT Pet's annotations/list.txt, as they are.
PETS = """\
#Image CLASS-ID SPECIES BREED ID
#ID: 1:37 Class ids
#SPECIES: 1:Cat 2:Dog
#BREED ID: 1-25:Cat 1:12:Dog
#All images with 1st letter as captial are cat images
#images with small first letter are dog images
Bengal_171 6 1 2
beagle_9 5 2 3
"""


def test_the_pets_list_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(PETS, encoding="utf-8")
    labels = read_labels(tmp_path / "list.txt")
    assert labels["Bengal_171"] == labels["images/Bengal_171.jpg"] == (6, 1, 2)
    assert read_labels(str(tmp_path / "list.txt"), column=0)["beagle_9.jpg"] == 5
    assert "Bengal_172.jpg" not in labels


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a.jpg,,3", "b.jpg,1,2"], {"a.jpg": ("", 3), "b.jpg": (1, 2)}),
        (["a.jpg,3,", "b.jpg,,"], {"a.jpg": (3, ""), "b.jpg": ("", "")}),
        (["a.jpg\t\t3", "b.jpg\t1\t"], {"a.jpg": ("", 3), "b.jpg": (1, "")}),
        (["c.jpg,golden retriever", "d.jpg,golden eagle"], {"c.jpg": "golden retriever", "d.jpg": "golden eagle"}),
        (["my cat.jpg,5"], {"my cat.jpg": 5}),
        (["a.jpg , 5 "], {"a.jpg": 5}),
        (["a,b.jpg\ttench, Tinca tinca"], {"a,b.jpg": "tench, Tinca tinca"}),
        (['"a, b.jpg",1', 'c.jpg,"say ""x"", y"'], {"a, b.jpg": 1, "c.jpg": 'say "x", y'}),
        (['a.jpg, "  two  "'], {"a.jpg": "  two  "}),
        (['"my cat.jpg"   5', "dog.jpg 6  "], {"my cat.jpg": 5, "dog.jpg": 6}),
        (['"#1.jpg",5', "#2.jpg,6"], {"#1.jpg": 5}),
        (['a.jpg,"two', '# lines"', "b.jpg,x"], {"a.jpg": "two\n# lines", "b.jpg": "x"}),
        (["n01/a.jpg 0", "", "n02/b.jpg  1"], {"n01/a.jpg": 0, "n02/b.jpg": 1}),
        (["f.jpg,0.75", "g.jpg,-1e-3", "h.jpg,.5", "i.jpg,+4", "j.jpg,2."],
         {"f.jpg": 0.75, "g.jpg": -0.001, "h.jpg": 0.5, "i.jpg": 4, "j.jpg": 2.0}),
        (["a.jpg,nan", "b.jpg,inf", "c.jpg,1e999", "d.jpg,1_0", "e.jpg,٣"],
         {"a.jpg": "nan", "b.jpg": "inf", "c.jpg": "1e999", "d.jpg": "1_0", "e.jpg": "٣"}),
        (["a.jpg,1", "a.jpg,1"], {"a.jpg": 1}),
        (["\ufeffa.jpg,1"], {"a.jpg": 1}),
    ],
)  # fmt: skip
def test_a_label_is_what_its_line_says(lines: list[str], expected: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    labels = read_labels(tmp_path / "labels.csv")
    assert dict(labels) == expected == dict(read_labels(line + "\n" for line in lines))
    assert {name: type(label) for name, label in labels.items()} == {
        name: type(label) for name, label in expected.items()
    }


def test_a_file_as_windows_writes_it_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b'\xef\xbb\xbf"a.jpg",1\r\nb.jpg,"2"\r\n')
    assert dict(read_labels(tmp_path / "labels.csv")) == {"a.jpg": 1, "b.jpg": 2}


def test_a_column_is_chosen_by_number_or_by_the_header_that_is_said() -> None:
    lines = ["image,breed,age", "a.jpg,Bengal,3", "b.jpg,,4"]
    assert dict(read_labels(lines, "age", header=True)) == dict(read_labels(lines, 1, header=True))
    assert dict(read_labels(lines, "breed", header=True)) == {"a.jpg": "Bengal", "b.jpg": ""}
    assert read_labels(lines)["image"] == ("breed", "age")  # a header that is not said is a line as any other
    assert dict(read_labels(["a.jpg;1,5"], separator=";")) == {"a.jpg": "1,5"}
    assert dict(read_labels(["a;b.jpg,1"], separator=",")) == {"a;b.jpg": 1} == dict(read_labels(['"a;b.jpg",1']))
    assert dict(read_labels(["a.jpg,1;5"])) == {"a.jpg": "1;5"}
    assert dict(read_labels(["b,c.jpg 1"], separator=" ")) == {"b,c.jpg": 1}


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        (["e.jpg,1", "x.jpg,1", "e.jpg,2"], {}, "line 3: 'e.jpg' is 2, and 1 on line 1"),
        (["e.jpg,1,2", "e.jpg,1,3"], {}, "line 2: 'e.jpg' is (1, 3), and (1, 2) on line 1"),
        (["# names", "a.jpg"], {}, "line 2: it has 0 labels"),
        (["a.jpg 1 2"], {"column": 2}, "line 1: it has 2 labels, and the one asked for is 2"),
        (["a.jpg,1", "b.jpg,1,2"], {"column": 0}, "line 2: it has 3 fields, the first has 2"),
        (["a.jpg 1 2", "b.jpg 1"], {"column": 0}, "line 2: it has 2 fields, the first has 3"),
        (["a.jpg,1", "b.jpg 2"], {}, "line 2: its fields are separated by blanks, those of the first by commas"),
        (["a.jpg 1", "my cat.jpg,2"], {}, "line 2: its fields are separated by commas"),
        (["a.jpg,1", "b.jpg\t2"], {}, "line 2: its fields are separated by tabs"),
        (["a.jpg,1", ",2"], {}, "line 2: it has no name"),
        (['""'], {}, "line 1: it has no name"),
        (["a.jpg,1", 'b.jpg,"2', "c.jpg,3"], {}, "line 2: it opens a quote that is never closed"),
        (["a.jpg,1", '"b".jpg,2'], {}, "line 2: it is no CSV"),
        (["a.jpg,\0"], {}, "line 1: it has a byte 0"),
        (["a.jpg,1"], {"column": "breed"}, "header=True"),
        (["image,breed", "a.jpg,1"], {"column": "age", "header": True}, "line 1: 0 columns are called 'age'"),
        (["image,x,x", "a.jpg,1,2"], {"column": "x", "header": True}, "line 1: 2 columns are called 'x'"),
        (["image,breed", "a.jpg,1,2"], {"header": True}, "line 2: it has 3 fields, the first has 2"),
        ([], {"header": True}, "line 1: there is no header"),
        (["a.jpg,1"], {"separator": ""}, "separator is ''"),
        (["a.jpg;1,5", "b.jpg;2,5"], {}, "line 1: the name 'a.jpg;1' has a ';' in it"),
        (["a.jpg;golden retriever"], {}, "line 1: the name 'a.jpg;golden' has a ';' in it"),
        (["a.jpg|cat, big", "b.jpg|dog, old"], {}, "line 1: the name 'a.jpg|cat' has a '|' in it"),
        (["a.jpg;1"], {}, "line 1: the name 'a.jpg;1' has a ';' in it"),
        (['a.jpg;"cat, big"'], {}, "line 1: the name 'a.jpg;\"cat' has a ';' in it"),
        (["file;label", "a.jpg;1"], {"header": True}, "line 1: the name 'file;label' has a ';' in it"),
    ],
)
def test_what_is_unclear_is_refused_with_its_line(
    lines: list[str], options: dict[str, str], said: str, tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    for source in (lines, tmp_path / "labels.csv"):
        with pytest.raises(UsageError) as raised:
            read_labels(source, **options)  # type: ignore[arg-type]
        told = f"{raised.value.message} {raised.value.hint}"
        assert said in told
        assert ("labels.csv" in told) == ("line" in said and source is not lines)


def test_bytes_that_are_no_utf_8_and_a_missing_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"a.jpg,1\nb\xfc.jpg,2\n")
    with pytest.raises(UsageError, match=r"latin\.csv, line 2: it is not UTF-8"):
        read_labels(tmp_path / "latin.csv")
    (tmp_path / "wide.csv").write_bytes("a.jpg,1\n".encode("utf-16-le"))
    with pytest.raises(UsageError, match=r"wide\.csv, line 1: it has a byte 0"):
        read_labels(tmp_path / "wide.csv")
    with pytest.raises(UsageError, match=r"cannot read .*none\.csv: No such file"):
        read_labels(tmp_path / "none.csv")
