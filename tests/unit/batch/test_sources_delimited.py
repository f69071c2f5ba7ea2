"""CSV and TSV files."""

import csv

import pytest
from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Question
from visionsplit_batch.sources import Columns
from visionsplit_client import Limits

from tests.unit.batch.source_checks import images, opened, png, read_all
from tests.unit.batch.tables import data_url


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return tmp_path


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_columns_become_image_id_prompt_and_fields(folder):
    path = write(
        folder / "rows.csv", 'key,image,ask,note\r\na,0.png,"What, ""now""?","two\r\nlines"\r\n\r\nb,1.png,Who?,\r\n'
    )
    source = opened(path, columns=Columns(id="key", prompt="ask"))
    assert read_all(source) == {
        "a": Content((png(0),), questions=(Question('What, "now"?'),), fields={"note": "two\r\nlines"}),
        "b": Content((png(1),), questions=(Question("Who?"),), fields={"note": ""}),
    }
    assert source.settings()["format"] == "csv"
    assert list(read_all(opened(path))) == ["row 0", "row 1"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(("delimiter", "name"), [(",", "a.csv"), (";", "a.csv"), ("\t", "a.csv"), ("\t", "a.tsv")])
def test_delimiters_and_encodings(folder, encoding, delimiter, name):
    """Some signs have a byte in them that is the end of a line in ASCII."""
    table = (["image", "ਊ"], ["0.png", "Ċ"], ["1.png", "\u0a0a\u0a00"])
    write(folder / name, "\n".join(map(delimiter.join, table)), encoding)
    rows = read_all(opened(folder / name))
    assert [content.images for content in rows.values()] == [(png(0),), (png(1),)]
    assert rows["row 1"].fields == {"ਊ": "\u0a0a\u0a00"}


def test_broken_rows_fail_alone(folder):
    lines = [
        "id,image,n",
        "good,0.png,1",
        "short,0.png",
        "long,0.png,1,2",
        'open,"0.png,1',
        "between,1.png,2",
        'junk,"0.png"x,1',
        "latin,0.png,caf\udce9",
        "gone,gone.png,1",
        "none,,1",
        ",0.png,1",
        "end,2.png,3",
    ]
    (folder / "rows.csv").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    rows = read_all(opened(folder / "rows.csv", columns=Columns(id="id")))
    sound = {name: row for name, row in rows.items() if isinstance(row, Content)}
    assert sound == {
        "good": Content((png(0),), fields={"n": "1"}),
        "between": Content((png(1),), fields={"n": "2"}),
        "end": Content((png(2),), fields={"n": "3"}),
    }
    failures = {name: row.message for name, row in rows.items() if name not in sound}
    for name, text in {
        "row 1": "the row has 2 values, the file 3 columns",
        "row 2": "the row has 4 values, the file 3 columns",
        "row 3": "the row cannot be split at ',': unexpected end of data",
        "row 5": "the row cannot be split at ','",
        "row 6": "can't decode byte 0xe9",
        "gone": "gone.png",
        "none": "the row has no image",
        "row 9": "the id in 'id' is ''",
    }.items():
        assert text in failures.pop(name)
    assert not failures


def test_values_longer_than_the_library_takes_by_default(folder):
    csv.field_size_limit(131_072)
    path = write(folder / "rows.csv", f'image,note\n"{data_url(5)}",{"x" * 300_000}\n0.png,y\n')
    rows = read_all(opened(path))
    assert [row.images for row in rows.values()] == [(png(5),), (png(0),)]
    limited = read_all(opened(path, limits=Limits(max_image_bytes=1000)))
    assert "more than the 2000 that are read" in limited["row 0"].message
    assert limited["row 1"].images == (png(0),)


def test_several_files_have_their_own_header(folder):
    (folder / "tables").mkdir()
    write(folder / "tables" / "a.csv", "image;n\n../0.png;1\n")
    write(folder / "tables" / "b.csv", "n,image\n2,../1.png\n")
    rows = read_all(opened(folder / "tables"))
    assert rows == {
        "a.csv row 0": Content((png(0),), fields={"n": "1"}),
        "b.csv row 0": Content((png(1),), fields={"n": "2"}),
    }
    root = opened(folder / "tables", image_root=str(folder / "tables" / "none"))
    assert "none/../0.png" in read_all(root)["a.csv row 0"].message
    assert root.settings()["image_root"] == str(folder / "tables" / "none")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("0.png,What?\n1.png,Who?\n", "seems to hold images; name one with --image-column: 0.png, What?"),
        ("image,n,n\n0.png,1,2\n", "several columns named 'n'"),
        ('image,"n\n0.png,1\n', "does not name the columns"),
        ("image,n\udce9\n0.png,1\n", "does not name the columns"),
        ("image,n\n", "has no rows of the format csv"),
    ],
)
def test_files_that_are_refused_as_a_whole(folder, text, complaint):
    (folder / "rows.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=complaint):
        list(opened(folder / "rows.csv").entries())


def test_a_table_beside_images_is_not_the_input(folder):
    write(folder / "metadata.csv", "image\n0.png\n")
    source = opened(folder)
    assert list(images(source)) == ["0.png", "1.png", "2.png"]
    assert [(one.reason, one.names) for one in source.left_out] == [("format", ("metadata.csv",))]
