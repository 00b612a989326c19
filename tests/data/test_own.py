"""Own data: every kind of file, what is guessed of the targets, and one clear line for each fault."""

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from secateur.data import OwnData, Standardisation, from_arrays, read_own
from secateur.errors import DataError, UsageError

CARS = """mpg,weight,origin,name
{rows}
"""


def write_csv(path, rows, head="mpg,weight,origin"):
    path.write_text(head + "\n" + "\n".join(rows) + "\n")
    return str(path)


def cars(number=40):
    origins = ("usa", "europe", "japan")
    return [f"{20 + k % 7 + 0.5:.1f},{2000 + 13 * k},{origins[k % 3]}" for k in range(number)]


def test_a_table_is_split_standardised_and_its_words_become_features(tmp_path):
    own = OwnData(path=write_csv(tmp_path / "cars.csv", cars()), target=("mpg",))
    data = read_own(own)
    assert (len(data.train), len(data.test)) == (32, 8)
    assert data.feature_names == ("weight", "origin=europe", "origin=japan", "origin=usa")
    assert data.likelihood.name == "gaussian"
    assert data.train.images.mean(0).abs().max() < 1e-6
    assert data.train.images.std(0, correction=0).sub(1).abs().max() < 1e-5
    # the likelihood knows the targets' unit, and the targets stay in it
    assert data.likelihood.location == pytest.approx(data.train.labels.mean().item())
    assert data.train.labels.min() >= 20
    assert any("likelihood gaussian" in remark for remark in data.remarks)
    assert any("column 'origin' has words" in remark for remark in data.remarks)
    again = read_own(own)
    assert torch.equal(again.train.images, data.train.images)
    assert torch.equal(again.test.labels, data.test.labels)


def test_semicolons_tabs_and_parquet_are_the_same_table(tmp_path):
    frame = pandas.read_csv(write_csv(tmp_path / "cars.csv", cars()))
    frame.to_csv(tmp_path / "semicolon.csv", sep=";", index=False)
    frame.to_csv(tmp_path / "tab.tsv", sep="\t", index=False)
    paths = ["semicolon.csv", "tab.tsv"]
    if pytest.importorskip("pyarrow", reason="Parquet needs pyarrow"):
        frame.to_parquet(tmp_path / "cars.parquet")
        paths.append("cars.parquet")
    expected = read_own(OwnData(path=str(tmp_path / "cars.csv"), target=("mpg",)))
    for name in paths:
        found = read_own(OwnData(path=str(tmp_path / name), target=("mpg",)))
        assert torch.equal(found.train.images, expected.train.images)
        assert torch.equal(found.test.labels, expected.test.labels)


def test_test_data_are_standardised_and_numbered_like_training_data(tmp_path):
    train = write_csv(tmp_path / "train.csv", cars())
    test = write_csv(tmp_path / "test.csv", cars(10)[::-1])
    data = read_own(OwnData(path=train, target=("origin",), test=test))
    assert data.class_names == ("europe", "japan", "usa")
    assert (len(data.train), len(data.test)) == (40, 10)
    raw = torch.tensor([[20 + k % 7 + 0.5, 2000 + 13 * k] for k in range(9, -1, -1)], dtype=torch.float64)
    torch.testing.assert_close(data.test.images, data.inputs.apply(raw))
    assert data.test.labels.tolist() == [(2, 0, 1)[k % 3] for k in range(9, -1, -1)]


FAULTS = {
    "text in numbers": (
        [*cars(), "21.5,heavy,usa"],
        {},
        r"expected numbers in column 'weight', got 'heavy' in line 42 \(1 of 41 rows",
    ),
    "missing value": (
        [*cars(), "21.5,,usa"],
        {},
        "every row of column 'weight', got none in 1 of 41, first in line 42",
    ),
    "question mark": ([*cars(), "21.5,?,usa"], {}, "every row of column 'weight', got none in 1 of 41"),
    "missing target": ([*cars(), ",2000,usa"], {}, "every row of column 'mpg'"),
    "one class": (
        [row.rsplit(",", 1)[0] + ",usa" for row in cars()],
        {"target": ("origin",)},
        "two classes at least, got usa in all 32",
    ),
    "no such target": (
        cars(),
        {"target": ("mgp",)},
        "one of mpg, weight, origin, got 'mgp'; did you mean mpg",
    ),
    "no such column to ignore": (cars(), {"ignore": ("wheels",)}, "--ignore: expected a column"),
    "few rows": (cars(6), {}, "expected at least 10 rows, got 6"),
    "an identifier": (
        [f"{row}{k}" for k, row in enumerate(cars(60))],
        {},
        "at most 50 different words in column 'origin', got 60 .* --ignore 'origin'",
    ),
    "constant target": (
        ["20.5," + row.split(",", 1)[1] for row in cars()],
        {"likelihood": "gaussian"},
        "targets that differ",
    ),
    "counts that are none": (cars(), {"likelihood": "poisson"}, "expected counts"),
    "not 0 and 1": (cars(), {"likelihood": "bernoulli"}, "targets of 0 and 1"),
    "real classes": (cars(), {"likelihood": "categorical"}, "class numbers or words .* got real"),
    "words as numbers": (
        cars(),
        {"target": ("origin",), "likelihood": "gaussian"},
        "expected numbers as targets",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_table_gets_one_line_with_the_remedy(tmp_path, fault):
    rows, options, says = FAULTS[fault]
    with pytest.raises(DataError, match=says) as caught:
        read_own(OwnData(path=write_csv(tmp_path / "cars.csv", rows), **{"target": ("mpg",), **options}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "a table that can be read"),
        ("mpg,weight\n", "rows below the names"),
        ("1,2\n3,4\n", "names of columns in the first line"),
        ("mpg,mpg \n1,2\n", "each column once, got 'mpg' twice"),
        ('mpg,weight\n1,"2\n', "a table that can be read"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, says):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=says):
        read_own(OwnData(path=str(tmp_path / "t.csv"), target=("mpg",)))


def test_a_table_needs_a_target_and_arrays_have_none(tmp_path):
    with pytest.raises(
        UsageError, match=r"--target: expected the column of cars\.csv to predict, one of mpg"
    ):
        read_own(OwnData(path=write_csv(tmp_path / "cars.csv", cars())))
    np.savez(tmp_path / "a.npz", x=np.zeros((20, 2)), y=np.arange(20))
    with pytest.raises(UsageError, match="--target, --ignore: expected a table"):
        read_own(OwnData(path=str(tmp_path / "a.npz"), target=("y",)))


def test_classes_unseen_in_training_are_refused(tmp_path):
    train = write_csv(tmp_path / "train.csv", cars())
    test = write_csv(tmp_path / "test.csv", [*cars(10), "20.5,2000,moon"])
    with pytest.raises(
        DataError, match="test targets of the 3 classes in the training data, got moon as well"
    ):
        read_own(OwnData(path=train, target=("origin",), test=test))
    with pytest.raises(DataError, match="words of the training data in column 'origin', got 'moon'"):
        read_own(OwnData(path=train, target=("mpg",), test=test))


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_arrays_come_with_their_own_test_data_or_without(tmp_path, generator, kind):
    x, y = torch.randn(50, 3, generator=generator), torch.arange(50) % 3

    def write(name, **arrays):
        path = tmp_path / f"{name}.{kind}"
        if kind == "npz":
            np.savez(path, **{key: value.numpy() for key, value in arrays.items()})
        else:
            save_file(arrays, path)
        return OwnData(path=str(path))

    whole = read_own(write("whole", inputs=x, targets=y))
    assert (len(whole.train), len(whole.test), whole.num_classes) == (40, 10, 3)
    parts = read_own(write("parts", x_train=x[:35], y_train=y[:35], x_test=x[35:], y_test=y[35:]))
    assert torch.equal(parts.test.labels, y[35:])
    torch.testing.assert_close(parts.test.images, parts.inputs.apply(x[35:]))
    with pytest.raises(DataError, match=r"expected arrays inputs and targets, or x and y .* got a, b"):
        read_own(write("odd", a=x, b=y))
    with pytest.raises(DataError, match="one target for each input, got 50 inputs and 49"):
        read_own(write("short", x=x, y=y[1:]))


def test_arrays_that_need_pickle_are_refused(tmp_path):
    np.savez(tmp_path / "evil.npz", x=np.zeros((20, 2)), y=np.array([print] * 20, dtype=object))
    with pytest.raises(DataError, match="can be read without pickle"):
        read_own(OwnData(path=str(tmp_path / "evil.npz")))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "evil.npz").read_bytes()[:100])
    with pytest.raises(DataError, match="can be read without pickle"):
        read_own(OwnData(path=str(tmp_path / "cut.npz")))


def write_images(folder, sizes=((8, 8),), mode="L", number=8):
    for shade, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for k in range(number):
            size = sizes[k % len(sizes)]
            colour = (60 + 130 * shade + k) if mode == "L" else (60 + 130 * shade + k, 10, 200)
            Image.new(mode, size, colour).save(folder / name / f"{k}.png")
    return folder


def test_a_folder_of_images_has_a_class_for_each_subfolder(tmp_path):
    data = read_own(OwnData(path=str(write_images(tmp_path / "shades"))))
    assert data.class_names == ("dark", "light")
    assert data.image_shape == (1, 8, 8)
    assert len(data.train) + len(data.test) == 16
    assert (data.train.images.mean((1, 2, 3)) > 0).long().tolist() == data.train.labels.tolist()
    colours = read_own(OwnData(path=str(write_images(tmp_path / "colours", mode="RGB")), image_size=32))
    assert colours.image_shape == (3, 32, 32)
    parts = tmp_path / "parts"
    write_images(parts / "train")
    write_images(parts / "test", number=3)
    assert len(read_own(OwnData(path=str(parts))).test) == 6


def test_faulty_folders_of_images_are_refused(tmp_path):
    sizes = write_images(tmp_path / "sizes", sizes=((8, 8), (9, 8)))
    with pytest.raises(DataError, match="images of one size, got 8 x 8 and 8 x 9; give --image-size"):
        read_own(OwnData(path=str(sizes)))
    assert read_own(OwnData(path=str(sizes), image_size=8)).image_shape == (1, 8, 8)
    (sizes / "dark" / "9.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"9\.png: expected an image that can be read"):
        read_own(OwnData(path=str(sizes), image_size=8))
    (tmp_path / "single" / "only").mkdir(parents=True)
    with pytest.raises(DataError, match="two classes at least, got only"):
        read_own(OwnData(path=str(tmp_path / "single")))


def test_data_that_changed_are_noticed(tmp_path):
    path = write_csv(tmp_path / "cars.csv", cars())
    source = read_own(OwnData(path=path, target=("mpg",))).source
    read_own(OwnData(path=path, target=("mpg",), sha256=source["sha256"]))
    write_csv(tmp_path / "cars.csv", cars(41))
    with pytest.raises(DataError, match="the data that the run was trained on, got others"):
        read_own(OwnData(path=path, target=("mpg",), sha256=source["sha256"]))


GUESSES = {
    "reals": (np.linspace(0, 1, 40), "gaussian"),
    "words": (np.array(["a", "b"] * 20), "categorical"),
    "few whole numbers": (np.arange(40) % 5, "categorical"),
    "few whole floats": (np.arange(40) % 2.0, "categorical"),
    "many whole numbers": (np.arange(40) * 3, "gaussian"),
    "truth": (np.arange(40) % 2 == 0, "categorical"),
    "labels": (np.stack([np.arange(40) % 2, np.arange(40) % 3 == 0], 1).astype(int), "bernoulli"),
    "one of three": (np.eye(3)[np.arange(40) % 3], "categorical"),
    "two numbers": (np.random.default_rng(0).normal(size=(40, 2)), "gaussian"),
}


@pytest.mark.parametrize("case", GUESSES)
def test_the_likelihood_is_guessed_and_said(generator, case):
    targets, expected = GUESSES[case]
    data = from_arrays(torch.randn(40, 2, generator=generator), targets)
    assert data.likelihood.name == expected
    assert data.remarks[0].startswith(f"likelihood {expected}: ")
    data.likelihood.check(
        torch.zeros(len(data.train), *data.train.labels.shape[1:] or (data.num_classes or 1,)),
        data.train.labels,
    )


def test_classes_keep_their_share_in_both_parts(generator):
    targets = np.array(["rare"] * 10 + ["common"] * 90)
    data = from_arrays(torch.randn(100, 2, generator=generator), targets)
    assert data.test.labels.bincount().tolist() == [18, 2]


def test_standardisation_is_exact_for_large_means(generator):
    year = 1.7e9 + 10 * torch.randn(200, 1, generator=generator, dtype=torch.float64)
    found = Standardisation.of(year)
    torch.testing.assert_close(found.apply(year).std(correction=0), torch.tensor(1.0))
    with pytest.raises(DataError, match="a positive standard deviation"):
        Standardisation((0.0,), (0.0,))
